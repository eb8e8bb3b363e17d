//! Llama as pages of mathematics.
