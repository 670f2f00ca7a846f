//! Cargo tells two checkouts that share a target folder apart by nothing but the times of their files, and would take
//! the crate that the other one built for its own. So whoever shares one names its checkout, and a change of the name is
//! a reason to build.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MIK_CHECKOUT");
}
