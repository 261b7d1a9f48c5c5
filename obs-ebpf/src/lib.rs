//! The kernel side of obs: what every collector's program shares.
#![no_std]
