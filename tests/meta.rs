//! The meta API over real sockets, every transport and serializer.

mod support;

use perilune::core::policy::{Actions, Rule};
use perilune::server::settings::Settings;
use perilune::wire::Serializer;
use perilune::words::{Dict, Id, MatchPolicy, Value};
use support::{Client, Kind, REALM, settings, start, uri};

fn ways() -> Vec<(Kind, Serializer)> {
    let kinds = [Kind::WebSocket, Kind::RawSocket];
    kinds
        .into_iter()
        .flat_map(|kind| Serializer::ALL.map(|serializer| (kind, serializer)))
        .collect()
}

/// Everybody may do everything, also in the reserved name space.
fn granted() -> Settings {
    let mut settings = settings();
    let realm = settings.realms.get_mut(REALM).expect("realm1");
    let mut role = (*realm.policy.roles["guest"]).clone();
    role.rules.push(Rule {
        uri: uri("wamp."),
        match_policy: MatchPolicy::Prefix,
        allow: Actions::all(),
        ..role.rules[0].clone()
    });
    realm.policy.roles.insert("guest".into(), role.into());
    settings
}

#[tokio::test]
async fn meta_ses_01_meta_ses_02_meta_ses_07_sessions_over_all_transports() {
    let (_router, address) = start(&granted()).await;
    for (kind, serializer) in ways() {
        let mut watcher = Client::join(address, kind, serializer).await;
        watcher.subscribe("wamp.session.on_join").await;
        watcher.subscribe("wamp.session.on_leave").await;
        for (kind, serializer) in ways() {
            let mut guest = Client::join(address, kind, serializer).await;
            let id = guest.session.expect("joined").value();
            let joined = watcher.event().await;
            let Some(Value::Map(details)) = joined.first() else {
                panic!("details, not {joined:?}");
            };
            assert_eq!(details.lookup("session"), Some(&Value::from(id)));
            let Some(Value::Map(transport)) = details.lookup("transport") else {
                panic!("a transport in {details:?}");
            };
            let expected = match kind {
                Kind::WebSocket | Kind::Batched => "websocket",
                Kind::RawSocket => "rawsocket",
            };
            assert_eq!(transport.text("type"), Some(expected));
            assert!(
                transport
                    .text("peer")
                    .is_some_and(|it| it.starts_with("127.0.0.1:"))
            );

            let request = guest.call("wamp.session.count", &[]).await;
            assert_eq!(guest.result(request).await, [Value::Int(2)]);
            let request = watcher.call("wamp.session.kill", &[id.into()]).await;
            assert_eq!(guest.reason().await, "wamp.close.killed");
            assert_eq!(watcher.event().await.first(), Some(&Value::from(id)));
            assert_eq!(watcher.result(request).await, []);
        }
    }
}

#[tokio::test]
async fn tst_06_a_testament_is_published_when_the_connection_is_lost() {
    let (_router, address) = start(&settings()).await;
    for (kind, serializer) in ways() {
        let mut heir = Client::join(address, kind, serializer).await;
        heir.subscribe("com.last.words").await;
        for (kind, serializer) in ways() {
            let mut dying = Client::join(address, kind, serializer).await;
            let words = vec![Value::Bytes(vec![0, 255].into()), "farewell".into()];
            let args = [
                "com.last.words".into(),
                Value::List(words.clone()),
                Dict::new().into(),
            ];
            let request = dying.call("wamp.session.add_testament", &args).await;
            assert_eq!(dying.result(request).await, []);
            drop(dying);
            assert_eq!(heir.event().await, words, "{kind:?} {serializer:?}");
        }
    }
}
