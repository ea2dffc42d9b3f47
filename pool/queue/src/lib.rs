//! The pool's queue: which request runs next, and which is refused. Pure: the time is passed in.
