//! A tun device, behind which its clients are: the kernel routes to it what a server sends to their addresses.
//!
//! Its network is a part of 198.18.0.0/15, which is set aside for measurements (RFC 2544), so that no traffic leaves the
//! host. The kernel hands over what a network card with TCP segmentation would be handed, in one read each.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::tcp::{Heard, Tcp};
use super::{Event, Network, Place, Received};

/// The devices' networks, one of 256 addresses each.
const NETWORKS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const NETWORKS_MAX: u32 = 512;
/// Bytes of a packet, as of a network of cards.
const MTU: u16 = 1500;
/// Packets that wait for the harness; beyond it the server's kernel has to send again.
const QUEUE_PACKETS: u32 = 16_384;
/// What lies before each packet: what segmentation has been left to the card.
const VNET_HEADER: usize = tun_rs::VIRTIO_NET_HDR_LEN;
/// The longest that is read: a segment of 64 KiB before its segmentation.
const PACKET_BYTES_MAX: usize = VNET_HEADER + 65_536;

/// The device, and the clients behind it.
pub struct Device {
    device: SyncDevice,
    tcp: Tcp,
    /// What has happened and was not asked for yet.
    events: VecDeque<(u32, Event)>,
    /// What the next packet is read into.
    packet: Vec<u8>,
    began: Instant,
    /// At the last wait, since it began.
    now: Duration,
    /// The last read found nothing.
    is_drained: bool,
}

impl Device {
    /// The device is there, and nobody behind it connected.
    pub fn new(place: &Place) -> io::Result<Self> {
        if place.number >= NETWORKS_MAX {
            return Err(io::Error::other(format!("there are addresses for {NETWORKS_MAX} devices")));
        }
        let server = Ipv4Addr::from(NETWORKS.to_bits() + (place.number << 8) + 1);
        let device = DeviceBuilder::new()
            .ipv4(server, 24, None)
            .mtu(MTU)
            .with(|options| {
                options.offload(true).tx_queue_len(QUEUE_PACKETS);
            })
            .build_sync()
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!(
                        "no tun device ({error}): --stack tun needs /dev/net/tun and root, or CAP_NET_ADMIN"
                    ),
                )
            })?;
        device.set_nonblocking(true)?;
        Ok(Self {
            device,
            tcp: Tcp::new((server, place.target.port()), place.count),
            events: VecDeque::new(),
            packet: vec![0; PACKET_BYTES_MAX],
            began: Instant::now(),
            now: Duration::ZERO,
            is_drained: true,
        })
    }
}

/// Hands a packet to the kernel as if it had come over the wire. One that is not taken is lost, as on a wire.
fn put(device: &SyncDevice) -> impl FnMut(&[u8], &[u8]) + '_ {
    move |header, payload| {
        let parts = [&[0; VNET_HEADER], header, payload].map(IoSlice::new);
        rustix::io::writev(device, &parts).ok();
    }
}

/// Puts what is heard in line.
fn told(events: &mut VecDeque<(u32, Event)>) -> impl FnMut(u32, Heard) + '_ {
    move |client, heard| {
        let event = match heard {
            Heard::Connected(connected) => Event::Connected(connected),
            Heard::Sent(sent) => Event::Sent(sent),
            Heard::Ended => Event::Ended,
        };
        events.push_back((client, event));
    }
}

impl Network for Device {
    fn connect(&mut self, client: u32) {
        self.tcp.connect(client, fastrand::u32(..), self.now, &mut put(&self.device));
    }

    fn send(&mut self, client: u32, bytes: Vec<u8>) {
        self.tcp.send(client, bytes, self.now, &mut put(&self.device), &mut told(&mut self.events));
    }

    fn reset(&mut self, client: u32) {
        self.tcp.reset(client, &mut put(&self.device), &mut told(&mut self.events));
        self.events.push_back((client, Event::Ended));
    }

    fn close(&mut self, client: u32) {
        self.tcp.reset(client, &mut put(&self.device), &mut told(&mut self.events));
        self.events.push_back((client, Event::Closed));
    }

    fn wait(&mut self, want: u32, nap: Option<Duration>) -> io::Result<()> {
        if want > 0 && self.is_drained && self.events.is_empty() {
            let nap = nap.and_then(|nap| Timespec::try_from(nap).ok());
            let mut polled = [PollFd::new(&self.device, PollFlags::IN)];
            match poll(&mut polled, nap.as_ref()) {
                Ok(_) if polled[0].revents().contains(PollFlags::ERR) => {
                    return Err(io::Error::other("somebody has taken the harness's tun device away"));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.now = self.began.elapsed();
        self.tcp.repeat(self.now, &mut put(&self.device), &mut told(&mut self.events));
        Ok(())
    }

    fn next(&mut self) -> Option<(u32, Event)> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let read = rustix::io::read(&self.device, &mut self.packet[..]);
            self.is_drained = read.is_err();
            let packet = self.packet.get(VNET_HEADER..read.ok()?)?;
            let arrived = self.tcp.handle(packet, &mut put(&self.device), &mut told(&mut self.events));
            if let Some((client, bytes)) = arrived {
                let bytes = VNET_HEADER + bytes.start..VNET_HEADER + bytes.end;
                let packet = std::mem::take(&mut self.packet);
                return Some((client, Event::Received(Received::Packet(packet, bytes))));
            }
        }
    }

    fn done(&mut self, _: u32, received: Received, _: bool) {
        if let Received::Packet(packet, _) = received {
            self.packet = packet;
        }
    }

    fn gaps(&self) -> u64 {
        self.tcp.gaps()
    }
}
