//! An S3 bucket for tests in other languages: prints its address, and ends when its standard input does.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, reason = "a test's server, used in part")]

#[path = "../tests/common/bucket.rs"]
mod bucket;

fn main() {
    println!("{}", bucket::serve(bucket::Conditions::Kept));
    std::io::stdin().lines().for_each(drop);
}
