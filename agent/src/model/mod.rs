//! What is running, and how it fares. Pure.
