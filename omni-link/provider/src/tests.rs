//! A table of every row of every decision, and what must hold for any view.

mod boot;
mod names;
mod power;
mod properties;
mod status;
mod tunnel;
mod views;
mod wipe;
