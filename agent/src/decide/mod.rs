//! What each thread should have, and why. Pure.
