//! A packet sniffer on every interface of a network namespace: does a word show?

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL`, in network byte order as the socket wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;

/// What it saw.
#[derive(Debug, Default)]
pub struct Sniffed {
    pub packets: usize,
    pub seen: bool,
}

/// One that listens.
pub struct Sniffer {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Sniffed>,
}

impl Sniffer {
    /// Listens from now on.
    pub fn start(netns: &str, word: &'static str) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (netns, ended) = (netns.to_owned(), done.clone());
        let (listens, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING))).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket.set_recv_buffer_size(8 << 20).unwrap();
            listens.send(()).unwrap();
            let (mut sniffed, mut packet) = (Sniffed::default(), vec![0; 128 * 1024]);
            loop {
                match (&socket).read(&mut packet) {
                    Ok(length) => {
                        sniffed.packets += 1;
                        sniffed.seen |= packet[..length].windows(word.len()).any(|w| w == word.as_bytes());
                    }
                    // Only when all has been read that was sent before the end.
                    Err(_) if ended.load(Ordering::Relaxed) => return sniffed,
                    Err(_) => {}
                }
            }
        });
        wait.recv().unwrap();
        Self { done, thread }
    }

    /// What it has seen.
    pub fn end(self) -> Sniffed {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
