//! Serves the files of a folder by TFTP and nothing else: `tftp 192.0.2.1:69 FOLDER`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use netboot_assets::BootFiles;
use netboot_link::tftp;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tftp ADDRESS FOLDER".into());
    };
    let files = BootFiles::load(&PathBuf::from(folder), Vec::new())?;
    let socket = tftp::bind(address.parse::<SocketAddr>()?)?;
    tftp::run(socket, Arc::new(files), Arc::new(|event| println!("{event}")), CancellationToken::new())
        .await?;
    Ok(())
}
