//! The program from outside: the real binary, real sockets, real input.

mod exercises;
mod harness;
mod services;
mod stop;
