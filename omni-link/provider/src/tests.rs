//! Table of every decision.
