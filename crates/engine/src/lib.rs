//! Runs many requests on one model.
