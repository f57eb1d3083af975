//! The program from outside: the real binary, real sockets, real input.

mod addresses;
mod backpressure;
mod bench;
mod exercises;
mod faults;
mod flows;
mod guard;
mod harness;
mod hostile;
mod load;
mod log;
mod outcomes;
mod pages;
mod peers;
mod ping;
mod send;
mod services;
mod soak;
mod stop;
mod strange_peers;
mod usage;
