//! Stands in for the service `stamp` if the crate is built without it: a type without a value.

#![allow(missing_docs, reason = "the real type is documented")]

use std::time::Instant;

use crate::guard::{Guard, Refusal};
use crate::net::{Datagram, Outgoing};

#[derive(Debug)]
pub enum StampService {}

impl StampService {
    pub fn begin(&mut self, _: Instant) {
        match *self {}
    }

    pub fn reflect(&mut self, _: &Datagram<'_>, _: &Guard, _: Instant) -> Result<(), Refusal> {
        match *self {}
    }

    pub fn transmit(&mut self) -> impl Iterator<Item = Outgoing<'_>> {
        match *self {}
        #[allow(unreachable_code, reason = "names the type of what is never returned")]
        std::iter::empty()
    }
}
