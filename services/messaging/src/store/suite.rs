//! The conformance suite of [`super::Store`].
