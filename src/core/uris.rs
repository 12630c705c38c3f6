//! The predefined URIs this router emits (conformance section 7), and its own.

use crate::words::Uri;

macro_rules! uris {
    ($($name:ident = $uri:literal)*) => {$( pub const $name: Uri = Uri::from_static($uri); )*};
}

uris! {
    INVALID_URI = "wamp.error.invalid_uri"
    NO_SUCH_PROCEDURE = "wamp.error.no_such_procedure"
    PROCEDURE_ALREADY_EXISTS = "wamp.error.procedure_already_exists"
    NO_SUCH_REGISTRATION = "wamp.error.no_such_registration"
    NO_SUCH_SUBSCRIPTION = "wamp.error.no_such_subscription"
    NO_SUCH_SESSION = "wamp.error.no_such_session"
    INVALID_ARGUMENT = "wamp.error.invalid_argument"
    CANCELED = "wamp.error.canceled"
    TIMEOUT = "wamp.error.timeout"
    PAYLOAD_SIZE_EXCEEDED = "wamp.error.payload_size_exceeded"
    PROTOCOL_VIOLATION = "wamp.error.protocol_violation"
    NOT_AUTHORIZED = "wamp.error.not_authorized"
    AUTHORIZATION_FAILED = "wamp.error.authorization_failed"
    NO_SUCH_REALM = "wamp.error.no_such_realm"
    NO_SUCH_ROLE = "wamp.error.no_such_role"
    NO_MATCHING_AUTH_METHOD = "wamp.error.no_matching_auth_method"
    AUTHENTICATION_DENIED = "wamp.error.authentication_denied"
    AUTHENTICATION_FAILED = "wamp.error.authentication_failed"
    AUTHENTICATION_REQUIRED = "wamp.error.authentication_required"
    DISCLOSE_ME_DISALLOWED = "wamp.error.option_disallowed.disclose_me"
    OPTION_NOT_ALLOWED = "wamp.error.option_not_allowed"
    NETWORK_FAILURE = "wamp.error.network_failure"
    FEATURE_NOT_SUPPORTED = "wamp.error.feature_not_supported"
    NO_AVAILABLE_CALLEE = "wamp.error.no_available_callee"
    UNAVAILABLE = "wamp.error.unavailable"
    RUNTIME_ERROR = "wamp.error.runtime_error"

    SYSTEM_SHUTDOWN = "wamp.close.system_shutdown"
    CLOSE_REALM = "wamp.close.close_realm"
    GOODBYE_AND_OUT = "wamp.close.goodbye_and_out"
    KILLED = "wamp.close.killed"

    SESSION_ON_JOIN = "wamp.session.on_join"
    SESSION_ON_LEAVE = "wamp.session.on_leave"
    SUBSCRIPTION_ON_CREATE = "wamp.subscription.on_create"
    SUBSCRIPTION_ON_SUBSCRIBE = "wamp.subscription.on_subscribe"
    SUBSCRIPTION_ON_UNSUBSCRIBE = "wamp.subscription.on_unsubscribe"
    SUBSCRIPTION_ON_DELETE = "wamp.subscription.on_delete"
    REGISTRATION_ON_CREATE = "wamp.registration.on_create"
    REGISTRATION_ON_REGISTER = "wamp.registration.on_register"
    REGISTRATION_ON_UNREGISTER = "wamp.registration.on_unregister"
    REGISTRATION_ON_DELETE = "wamp.registration.on_delete"

    REFLECT_ON_DEFINE = "wamp.reflect.on_define"
    REFLECT_ON_UNDEFINE = "wamp.reflect.on_undefine"

    SLOW_CONSUMER = "perilune.close.slow_consumer"
    SCRIPT_TIME_LIMIT = "perilune.error.script_time_limit"
    SCRIPT_MEMORY_LIMIT = "perilune.error.script_memory_limit"
    SESSION_ON_SLOW = "perilune.session.on_slow"
    SESSION_ON_MISSED = "perilune.session.on_missed"
    SCRIPT_ON_RELOAD = "perilune.script.on_reload"
    SCRIPT_ON_ERROR = "perilune.script.on_error"
}
