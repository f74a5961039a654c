//! A table of every row of every decision, and what must hold for any view.

mod bmc;
mod boot;
mod health;
mod merge;
mod names;
mod power;
mod properties;
mod status;
mod tunnel;
mod views;
mod wipe;
