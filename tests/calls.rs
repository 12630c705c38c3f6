//! Calls that are more than a question and an answer, end to end: every transport and serializer.

mod support;

use std::net::SocketAddr;

use perilune::wire::*;
use perilune::words::{Dict, RequestId, Value};
use support::{Client, Kind, REALM, hello, settings, start, tcp, uri};

/// All ways to speak.
fn ways() -> Vec<(Kind, Serializer)> {
    let kinds = [Kind::WebSocket, Kind::RawSocket];
    kinds
        .into_iter()
        .flat_map(|kind| Serializer::ALL.map(|serializer| (kind, serializer)))
        .collect()
}

/// Joins with every feature.
async fn join(address: SocketAddr, (kind, serializer): (Kind, Serializer)) -> Client {
    let Message::Hello(mut message) = hello(REALM) else {
        panic!("a HELLO")
    };
    let features = Some(ClientFeatures {
        call_canceling: true,
        progressive_call_results: true,
        progressive_call_invocations: true,
        payload_passthru_mode: true,
        call_reroute: true,
        ..ClientFeatures::default()
    });
    message.roles = ClientRoles {
        publisher: features,
        subscriber: features,
        caller: features,
        callee: features,
    };
    let mut client = Client::open(tcp(address).await, kind, serializer).await;
    client.send(&Message::Hello(message)).await;
    assert!(matches!(client.message().await, Message::Welcome(_)));
    client
}

fn args(payload: &Payload) -> Vec<Value> {
    payload.values().expect("values").0
}

async fn call(client: &mut Client, request: RequestId, options: CallOptions, args: &[Value]) {
    let payload = Payload::of(client.serializer, args, &Dict::new());
    client
        .send(&Message::Call(Call {
            request,
            options,
            procedure: uri("com.stream"),
            payload,
        }))
        .await;
}

async fn invoked(client: &mut Client) -> Invocation {
    match client.message().await {
        Message::Invocation(invocation) => invocation,
        other => panic!("expected INVOCATION, got {other:?}"),
    }
}

async fn result(client: &mut Client) -> CallResult {
    match client.message().await {
        Message::Result(result) => result,
        other => panic!("expected RESULT, got {other:?}"),
    }
}

#[tokio::test]
async fn pci_02_pci_16_streams_between_all_transports() {
    let (_router, address) = start(&settings()).await;
    for way in ways() {
        let mut callee = join(address, way).await;
        callee.register("com.stream").await;
        for other in ways() {
            let mut caller = join(address, other).await;
            let request = caller.request();
            let mut id = None;
            for (number, progress) in [(0, true), (1, true), (2, false)] {
                let options = CallOptions {
                    progress,
                    receive_progress: true,
                    ..CallOptions::default()
                };
                call(&mut caller, request, options, &[Value::Int(number)]).await;
                let invocation = invoked(&mut callee).await;
                assert_eq!(*id.get_or_insert(invocation.request), invocation.request);
                assert_eq!(invocation.details.progress, progress, "{way:?} {other:?}");
                assert_eq!(args(&invocation.payload), [Value::Int(number)]);
                callee
                    .send(&Message::Yield(Yield {
                        request: invocation.request,
                        progress,
                        passthru: None,
                        payload: invocation.payload,
                    }))
                    .await;
                let result = result(&mut caller).await;
                assert_eq!((result.request, result.progress), (request, progress));
                assert_eq!(args(&result.payload), [Value::Int(number)]);
            }
        }
        callee.goodbye("wamp.close.normal").await;
        callee.reason().await;
    }
}

#[tokio::test]
async fn ppt_02_ppt_11_octets_pass_through_between_all_transports() {
    let (_router, address) = start(&settings()).await;
    let octets = [Value::Bytes((0..=255).collect::<Vec<u8>>().into())];
    let passthru = Some(Box::new(Passthru {
        scheme: "x_mine".into(),
        serializer: Some("cbor".into()),
        cipher: None,
        keyid: Some("k".into()),
    }));
    for way in ways() {
        let mut callee = join(address, way).await;
        callee.register("com.stream").await;
        callee.subscribe("com.topic").await;
        for other in ways() {
            let mut caller = join(address, other).await;
            let request = caller.request();
            let options = CallOptions {
                passthru: passthru.clone(),
                ..CallOptions::default()
            };
            call(&mut caller, request, options, &octets).await;
            let invocation = invoked(&mut callee).await;
            assert_eq!(invocation.details.passthru, passthru, "{way:?} {other:?}");
            assert_eq!(args(&invocation.payload), octets, "{way:?} {other:?}");
            callee
                .send(&Message::Yield(Yield {
                    request: invocation.request,
                    progress: false,
                    passthru: passthru.clone(),
                    payload: invocation.payload,
                }))
                .await;
            let result = result(&mut caller).await;
            assert_eq!(result.passthru, passthru, "{way:?} {other:?}");
            assert_eq!(args(&result.payload), octets, "{way:?} {other:?}");

            let request = caller.request();
            let publish = Publish {
                request,
                options: PublishOptions {
                    passthru: passthru.clone(),
                    ..PublishOptions::default()
                },
                topic: uri("com.topic"),
                payload: Payload::of(caller.serializer, &octets, &Dict::new()),
            };
            caller.send(&Message::Publish(publish)).await;
            let Message::Event(event) = callee.message().await else {
                panic!("expected EVENT")
            };
            assert_eq!(event.details.passthru, passthru, "{way:?} {other:?}");
            assert_eq!(args(&event.payload), octets, "{way:?} {other:?}");
        }
        callee.goodbye("wamp.close.normal").await;
        callee.reason().await;
    }
}
