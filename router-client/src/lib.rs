//! router-client
