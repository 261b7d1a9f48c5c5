//! Known-answer programs, and what obs must show of them on a real kernel.
