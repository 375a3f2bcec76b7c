//! The page is embedded when the binary is built: build again when it changes. Its folder is always there (`.gitkeep`), because
//! cargo takes a path that is missing for one that has just changed.

fn main() {
    println!("cargo:rerun-if-changed=../../web/dist");
    println!("cargo:rerun-if-changed=build.rs");
}
