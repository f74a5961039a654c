//! Placeholder: the TFTP machine goes here.
