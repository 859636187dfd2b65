mod replay;
fn main() {}
