//! Groups from outside: who receives what, and who reads what (I8).

mod changes;
mod huge;
mod members;
mod receipts;
