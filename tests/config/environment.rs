//! The environment says any key, and is enough for a container.

use std::time::Duration;

use oncemail::config::LogFormat;

use super::*;

fn from_environment(env: &[(&str, &str)]) -> Result<Config, Errors> {
    load(None, variables(env))
}

#[test]
fn any_key_can_be_said_by_the_environment() {
    let env = [
        ("ONCEMAIL__HOSTNAME", "Relay.example"),
        ("ONCEMAIL__LIMITS__RECIPIENTS", "7"),
        ("ONCEMAIL__LIMITS__MESSAGE_SIZE", "1MB"),
        ("ONCEMAIL__IDEMPOTENCY__IGNORE_HEADERS", "X-A, X-B"),
        ("ONCEMAIL__HEADER__DROP_BCC", "true"),
        ("ONCEMAIL__ROUTE__0__PATH", "/tmp/elsewhere"),
        ("ONCEMAIL__LOG__FORMAT", "json"),
        ("ONCEMAIL__SHUTDOWN_GRACE", "5s"),
        ("ONCEMAIL__LOG__LEVEL", ""),
        ("UNRELATED", "x"),
    ];
    let config = Files::new().load(&format!("{LISTENER}{ROUTE}"), &env).unwrap();
    assert_eq!(config.relay.hostname, "relay.example");
    assert_eq!((config.submission.limits.recipients, config.submission.limits.message_size), (7, 1_000_000));
    assert_eq!(config.intake.ignore_headers, ["X-A", "X-B"]);
    assert!(config.intake.drop_bcc);
    assert!(
        matches!(&config.relay.routes[0].transport, Transport::Directory(path) if path == Path::new("/tmp/elsewhere"))
    );
    assert_eq!((config.log.format, config.shutdown_grace), (LogFormat::Json, Duration::from_secs(5)));
}

#[test]
fn a_variable_that_means_nothing_is_an_error_that_names_the_nearest() {
    let refused = |name: &str, value: &str| {
        let errors = Files::new().load(&format!("{LISTENER}{ROUTE}"), &[(name, value)]).unwrap_err();
        assert_eq!(errors.problems().len(), 1, "{errors}");
        errors.to_string()
    };
    assert!(
        refused("ONCEMAIL__LIMITS__RECIPIENT", "7").contains("did you mean ONCEMAIL__LIMITS__RECIPIENTS?")
    );
    assert!(refused("ONCEMAIL_SMARTHOTS", "x").contains("did you mean ONCEMAIL_SMARTHOST?"));
    assert!(refused("ONCEMAIL_DATA_DIR", "x").contains("did you mean ONCEMAIL__DATA_DIR?"));
    assert!(refused("ONCEMAIL__ROUTE__2__PATH", "x").contains("the next one is 1"));
    assert!(refused("ONCEMAIL__ROUTE__PATH", "x").contains("no such variable"));
    assert!(refused("ONCEMAIL__HTTP__SUBMISSION", "x").contains("this version does not have it yet"));
    assert!(refused("ONCEMAIL__LIMITS__RECIPIENTS", "many").starts_with("ONCEMAIL__LIMITS__RECIPIENTS: "));
    // A Kubernetes service named "oncemail" sets these in every pod.
    let links = [("ONCEMAIL_PORT", "tcp://10.0.0.1:587"), ("ONCEMAIL_SERVICE_HOST", "10.0.0.1")];
    Files::new().load(&format!("{LISTENER}{ROUTE}"), &links).unwrap();
}

#[test]
fn a_container_runs_from_the_environment_alone() {
    let files = Files::new();
    let password = files.write("password", "p\n");
    let env = [
        ("ONCEMAIL_SMARTHOST", "smtp+starttls://user@smtp.example.com:2587"),
        ("ONCEMAIL_SMARTHOST_PASSWORD_FILE", password.to_str().unwrap()),
        ("ONCEMAIL__HOSTNAME", "relay.example"),
    ];
    let config = from_environment(&env).unwrap();
    let smarthost = smarthost(&config);
    assert_eq!(
        (hosts(smarthost)[0].to_string().as_str(), smarthost.tls),
        ("smtp.example.com:2587", TlsPolicy::Required)
    );
    assert_eq!(smarthost.auth.as_ref().unwrap().username, "user");
    let listener = &config.submission.listeners[0];
    assert_eq!((listener.address.to_string().as_str(), listener.auth), ("0.0.0.0:587", AuthMode::None));
    assert!(
        listener.allow.iter().all(|net| net.addr().is_loopback()),
        "nobody else gets in without being named"
    );
}

#[test]
fn a_container_with_users_requires_auth_over_tls() {
    let files = Files::new();
    let (certificate, key) = files.certificate("tls");
    let users = files.write("users", &format!("# applications\n\nshop:{HASH}\nblog:{HASH}\n"));
    let base = [
        ("ONCEMAIL_SMARTHOST", "smtps://smtp.example.com"),
        ("ONCEMAIL_USERS_FILE", users.to_str().unwrap()),
    ];
    let errors = from_environment(&base).unwrap_err().to_string();
    assert!(errors.contains("there is no [tls]"), "{errors}");
    let mut env = base.to_vec();
    env.push(("ONCEMAIL__TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()));
    env.push(("ONCEMAIL__TLS__KEY_FILE", key.to_str().unwrap()));
    env.push(("ONCEMAIL__LISTENER__0__ADDRESS", "127.0.0.1:0"));
    let config = from_environment(&env).unwrap();
    let listener = &config.submission.listeners[0];
    assert_eq!((listener.tls, listener.auth), (TlsMode::StartTls, AuthMode::Required));
    assert_eq!(
        config.submission.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(),
        ["shop", "blog"]
    );
    assert_eq!(hosts(smarthost(&config))[0].port, 465);
}

#[test]
fn a_users_file_tells_its_own_lines() {
    let files = Files::new();
    let users = files.write("users", &format!("shop:{HASH}\nno colon here\nblog:plain-word\n"));
    let env = [("ONCEMAIL_SMARTHOST", "smtps://h"), ("ONCEMAIL_USERS_FILE", users.to_str().unwrap())];
    let errors = from_environment(&env).unwrap_err().to_string();
    assert!(errors.contains("users:2:1: a line without a colon"), "{errors}");
    assert!(errors.contains("users:3:1: `password_hash`: this is not a hash"), "{errors}");
    assert!(!errors.contains("plain-word"));
}

#[test]
fn without_any_configuration_the_first_step_is_named() {
    let errors = from_environment(&[("PATH", "/bin"), ("ONCEMAIL_SMARTHOST", "")]).unwrap_err().to_string();
    assert!(errors.contains("no configuration is given") && errors.contains("config/local.toml"), "{errors}");
    let errors = load(Some(Path::new("/nowhere.toml")), variables(&[])).unwrap_err().to_string();
    assert!(errors.starts_with("/nowhere.toml: cannot read /nowhere.toml"), "{errors}");
}
