//! The fan-out of a group's events to its members.
