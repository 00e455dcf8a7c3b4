mod actual;
mod address;
mod desired;
#[cfg(test)]
mod fixture;
mod plan;
mod step;

fn main() {}
