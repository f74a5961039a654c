//! The machine API as a plain process, for tests with other clients: `machine_api 127.0.0.1:0`.
//!
//! It tells of the machine that it runs on, and listens where it is told instead of in the tunnel. Ends with
//! its standard input.

use std::io::Read;
use std::sync::Arc;

use bootlace_agent::inventory::collect::Machine;
use bootlace_agent::machine_api::{self, MachineApi};
use bootlace_agent::meta::Meta;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: machine_api ADDRESS:PORT")?;
    let listener = TcpListener::bind(&address).await?;
    let machine = Machine { settle: false, ..Machine::default() };
    let api = MachineApi::new(Arc::new(machine), Meta::default()).await?;
    println!("listening on {}", listener.local_addr()?);
    let over = async {
        let end = || std::io::stdin().read_to_end(&mut Vec::new());
        drop(tokio::task::spawn_blocking(end).await);
    };
    machine_api::serve(TcpListenerStream::new(listener), api, over).await;
    Ok(())
}
