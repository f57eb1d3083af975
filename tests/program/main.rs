//! The program from outside: the real binary, real sockets, real input.

mod bench;
mod exercises;
mod harness;
mod peers;
mod ping;
mod send;
mod services;
mod stop;
