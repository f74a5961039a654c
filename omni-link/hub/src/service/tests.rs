//! Where calls come from.

use super::*;

#[test]
fn the_caller_is_known_under_axum_too() {
    let mut request = Request::new(());
    assert_eq!(peer(&request), None);
    let address: SocketAddr = "[::ffff:10.0.0.7]:4000".parse().unwrap();
    request.extensions_mut().insert(axum::extract::ConnectInfo(address));
    assert_eq!(peer(&request), Some(IpAddr::from([10, 0, 0, 7])));
}
