//! Logins and permissions that a WAMP procedure decides (`DYN-*`, `AZ-05`): each question is a call by a session of the
//! router's own, which nobody authorizes and the meta API does not show.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::granted::{self, Asked};
use super::hooks;
use crate::core::credentials::Principal;
use crate::core::policy::Procedure;
use crate::core::{
    AuthFailure, AuthorizeRequest, Granted, Join, Login, SessionKind, Verdict, uris,
};
use crate::lua::host::mailbox::Asker;
use crate::server::{Guest, Router, TransportInfo, Unanswered};
use crate::wire::{CallOptions, ClientFeatures, ClientRoles, Payload, Serializer};
use crate::words::{Dict, Uri, Value};

/// Asks the login's procedure; the router watches the time, and drops the answer when it is up.
pub(super) fn authenticate(
    router: &Arc<Router>,
    procedure: Procedure,
    login: Login,
    transport: &TransportInfo,
    mut reply: oneshot::Sender<Result<Granted, AuthFailure>>,
) {
    let asked = Asked::from(&login);
    let arguments = hooks::authenticator_arguments(&login, transport);
    let router = router.clone();
    router.runtime().clone().spawn(async move {
        let answer = tokio::select! {
            answer = call(&router, &login.realm, &procedure, &arguments) => answer,
            // The call is canceled with its session.
            () = reply.closed() => return,
        };
        let failure = match answer {
            Ok(payload) => return granted::answer(&payload, asked, reply),
            Err(NoAnswer::Raised { error, message }) => AuthFailure::Raised { error, message },
            Err(NoAnswer::Failed(text)) => AuthFailure::Failed(text),
        };
        // The peer may be gone; then nobody wants to know.
        let _ = reply.send(Err(failure));
    });
}

/// Asks an authorizer that is a procedure.
pub(super) fn authorize(
    router: &Arc<Router>,
    realm: &Uri,
    procedure: Procedure,
    request: &AuthorizeRequest,
    asker: Asker,
) {
    let arguments = hooks::authorizer_arguments(realm, request);
    let within = router
        .realm(realm)
        .map(|realm| realm.policy().limits.hook)
        .unwrap_or_default();
    let (router, realm) = (router.clone(), realm.clone());
    router.runtime().clone().spawn(async move {
        let call = call(&router, &realm, &procedure, &arguments);
        let verdict = match tokio::time::timeout(within, call).await {
            Ok(Ok(payload)) => hooks::verdict_of_procedure(&payload),
            Ok(Err(NoAnswer::Raised { error, .. })) => {
                Verdict::Failed(format!("the procedure {} raised {error}", procedure.uri))
            }
            Ok(Err(NoAnswer::Failed(text))) => Verdict::Failed(text),
            Err(_) => Verdict::Failed("the procedure did not answer in time".into()),
        };
        asker.answer(verdict);
    });
}

enum NoAnswer {
    /// An error of the application's own.
    Raised { error: Uri, message: Option<String> },
    /// Anything else; for the log.
    Failed(String),
}

/// Errors with a name of the protocol's that an authenticator raises to say why.
const SAID: [Uri; 4] = [
    uris::AUTHENTICATION_DENIED,
    uris::NOT_AUTHORIZED,
    uris::NO_SUCH_REALM,
    uris::NO_SUCH_ROLE,
];

async fn call(
    router: &Router,
    realm: &Uri,
    procedure: &Procedure,
    arguments: &[Value],
) -> Result<Payload, NoAnswer> {
    let Procedure {
        uri, realm: named, ..
    } = procedure;
    let failed = |why: &str| NoAnswer::Failed(format!("the procedure {uri}: {why}"));
    let place = named.as_ref().unwrap_or(realm);
    let realm = router
        .realm(place)
        .ok_or_else(|| failed(&format!("there is no realm {place}")))?;
    let join = Join {
        session: router.draw_session(),
        principal: Principal {
            authid: "perilune".into(),
            authrole: "router".into(),
            authmethod: "local".into(),
            authprovider: "perilune".into(),
            extra: Dict::new(),
        },
        roles: ClientRoles {
            caller: Some(ClientFeatures::default()),
            ..ClientRoles::default()
        },
        kind: SessionKind::Router,
        message: usize::MAX,
        expires: None,
        peer: String::new(),
        transport: "",
    };
    let guest = Guest::join(&realm, join, 0).map_err(|_| failed("the realm is closed"))?;
    let payload = Payload::of(Serializer::MsgPack, arguments, &Dict::new());
    let answer = guest.call(uri.clone(), CallOptions::default(), payload);
    match answer.await {
        Ok(result) => Ok(result.payload),
        Err(Unanswered::Left) => Err(failed("the realm was closed")),
        Err(Unanswered::Violation(text)) => Err(failed(&text)),
        Err(Unanswered::Error(error)) => {
            let values = error.payload.values();
            let first = values.ok().and_then(|(args, _)| args.into_iter().next());
            let message = first.and_then(|value| value.as_str().map(str::to_owned));
            let error = error.error;
            match error.is_wamp() && !SAID.contains(&error) {
                false => Err(NoAnswer::Raised { error, message }),
                true => Err(failed(&format!("{error} {}", message.unwrap_or_default()))),
            }
        }
    }
}
