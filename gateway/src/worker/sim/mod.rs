//! The worker without a kernel: an in-memory [`Io`] with the faults of a real one, a clock that jumps, and the
//! tests that drive the very code production runs. No sockets, no sleeping.

mod access;
mod bed;
mod broadcasts;
mod chaos;
mod clients;
mod door;
mod kernel;
mod peer_tls;
mod peers;
mod rooms;
mod tls;
mod trouble;
mod websocket;
