//! Those who deliver pushes, and what stands before each: a rate, a number at once, and a breaker.

pub mod guard;
