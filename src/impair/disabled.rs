//! Stands in for the link model if the crate is built without it: types without a value, so that what uses them is
//! never reached, and compiles to nothing.

#![allow(missing_docs, clippy::missing_errors_doc, reason = "the real types are documented")]

use std::convert::Infallible;
use std::fmt::{self, Display, Formatter};
use std::marker::PhantomData;
use std::time::Instant;

use super::{Impaired, Seed};
use crate::parse_error::ParseError;

/// There are no impairments.
#[derive(Clone, Debug)]
pub enum Impairments {}

impl Impairments {
    pub fn check(&self) -> Result<(), ParseError> {
        match *self {}
    }
}

impl Display for Impairments {
    fn fmt(&self, _: &mut Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// The generator of no link.
#[derive(Debug)]
pub struct Generator;

impl Generator {
    pub fn new(_: Seed, _: usize) -> Self {
        Self
    }
}

/// There is no link.
#[derive(Debug)]
pub struct Link<F>(Infallible, PhantomData<F>);

impl<F> Link<F> {
    pub fn new(impairments: Impairments, _: Generator, _: usize, _: Instant) -> Self {
        match impairments {}
    }

    pub fn handle<'a>(&mut self, _: Instant, _: F, _: usize, _: [&'a [u8]; 3]) -> [Option<[&'a [u8]; 3]>; 2] {
        match self.0 {}
    }

    pub fn advance(&mut self, _: Instant) {
        match self.0 {}
    }

    pub fn ready(&self) -> impl Iterator<Item = (F, &[u8])> {
        match self.0 {}
        #[allow(unreachable_code, reason = "names the type of what is never returned")]
        std::iter::empty()
    }

    pub fn release(&mut self, _: usize) {
        match self.0 {}
    }

    pub fn room_for(&self, _: impl Iterator<Item = usize>) -> usize {
        match self.0 {}
    }

    pub fn put_back(&mut self, _: F, _: [&[u8]; 3]) {
        match self.0 {}
    }

    pub fn is_ready(&self) -> bool {
        match self.0 {}
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        match self.0 {}
    }

    pub fn waiting(&self) -> usize {
        match self.0 {}
    }

    pub fn impaired(&self) -> Impaired {
        match self.0 {}
    }
}
