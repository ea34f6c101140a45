//! Benches of the kernels, and the comparison with other engines: see the README beside this.
