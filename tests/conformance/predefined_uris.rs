//! The predefined URIs (chapter 7): each as the text spells it. When they are sent is tested where they belong.

use perilune::core::uris;
use perilune::words::Uri;

use crate::support::*;

/// Whether each is `prefix` and the text.
fn spelled(prefix: &str, uris: &[(Uri, &str)]) {
    for (uri, text) in uris {
        assert_eq!(uri.as_str(), format!("{prefix}{text}"));
    }
}

#[test]
fn err_01_err_02_err_03_err_04_err_05_err_06_err_07_err_08_err_09_of_requests() {
    spelled(
        "wamp.error.",
        &[
            (uris::INVALID_URI, "invalid_uri"),
            (uris::NO_SUCH_PROCEDURE, "no_such_procedure"),
            (uris::PROCEDURE_ALREADY_EXISTS, "procedure_already_exists"),
            (uris::NO_SUCH_REGISTRATION, "no_such_registration"),
            (uris::NO_SUCH_SUBSCRIPTION, "no_such_subscription"),
            (uris::INVALID_ARGUMENT, "invalid_argument"),
            (uris::CANCELED, "canceled"),
            (uris::TIMEOUT, "timeout"),
            (uris::PAYLOAD_SIZE_EXCEEDED, "payload_size_exceeded"),
        ],
    );
}

#[test]
fn err_10_err_11_err_12_of_permissions() {
    spelled(
        "wamp.error.",
        &[
            (uris::PROTOCOL_VIOLATION, "protocol_violation"),
            (uris::NOT_AUTHORIZED, "not_authorized"),
            (uris::AUTHORIZATION_FAILED, "authorization_failed"),
        ],
    );
}

#[test]
fn err_13_err_14_err_15_err_17_err_18_err_19_of_logins() {
    spelled(
        "wamp.error.",
        &[
            (uris::NO_SUCH_REALM, "no_such_realm"),
            (uris::NO_SUCH_ROLE, "no_such_role"),
            (uris::NO_MATCHING_AUTH_METHOD, "no_matching_auth_method"),
            (uris::AUTHENTICATION_DENIED, "authentication_denied"),
            (uris::AUTHENTICATION_FAILED, "authentication_failed"),
            (uris::AUTHENTICATION_REQUIRED, "authentication_required"),
        ],
    );
}

#[test]
fn err_22_err_23_of_options() {
    spelled(
        "wamp.error.",
        &[
            (uris::OPTION_NOT_ALLOWED, "option_not_allowed"),
            (
                uris::DISCLOSE_ME_DISALLOWED,
                "option_disallowed.disclose_me",
            ),
        ],
    );
}

#[test]
fn err_24_err_25_err_26_err_27_err_28_of_calls_and_sessions() {
    spelled(
        "wamp.error.",
        &[
            (uris::NETWORK_FAILURE, "network_failure"),
            (uris::UNAVAILABLE, "unavailable"),
            (uris::NO_AVAILABLE_CALLEE, "no_available_callee"),
            (uris::FEATURE_NOT_SUPPORTED, "feature_not_supported"),
            (uris::NO_SUCH_SESSION, "no_such_session"),
        ],
    );
}

#[test]
fn err_29_err_30_err_31_err_32_of_closing() {
    spelled(
        "wamp.close.",
        &[
            (uris::SYSTEM_SHUTDOWN, "system_shutdown"),
            (uris::CLOSE_REALM, "close_realm"),
            (uris::GOODBYE_AND_OUT, "goodbye_and_out"),
            (uris::KILLED, "killed"),
        ],
    );
}

#[test]
fn err_33_a_client_may_leave_for_any_reason() {
    for reason in ["wamp.close.normal", "wamp.close.logout", "app.bye"] {
        let mut realm = Conversation::new();
        let joe = realm.join("joe");
        realm.says(joe, json!([6, {}, reason]));
        realm.hears(joe, json!([6, {}, "wamp.close.goodbye_and_out"]));
    }
}

#[test]
fn err_34_a_callees_error_is_forwarded_whatever_its_uri() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "p");
    for error in [
        "app.error.x",
        "wamp.error.timeout",
        "wamp.error.unavailable",
    ] {
        let call = realm.call(caller, json!({}), "p", json!([]));
        let invocation = realm.heard(callee)[1].as_u64().unwrap();
        realm.says(callee, json!([8, 68, invocation, {}, error, [1]]));
        realm.hears(caller, json!([8, 48, call, {}, error, [1]]));
    }
}
