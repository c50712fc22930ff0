//! The agent with real tasks, in a world of real HTTP.

mod adoption;
mod agent;
mod container;
mod crash;
mod cycles;
mod disk;
mod escape;
mod faults;
mod native;
mod orders;
mod output;
mod peers;
mod podman;
mod walls;
mod world;
