//! Connects to `s3://bucket/prefix`. Credentials, regions and endpoints come from the provider's own variables.

use std::str::FromStr;
use std::sync::{Arc, Once};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, RetryConfig};
use reqwest::Url;

use super::VARIABLES;
use crate::backend::SCHEMES;
use crate::error::{Error, Result};

/// A bucket's client, and the prefix in it.
pub(super) fn connect(url: &str) -> Result<(Arc<dyn ObjectStore>, String)> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    let wrong = |what: &str| Err(Error::input(format!("{url}: {what}")).hint(SCHEMES));
    if bucket.is_empty() {
        return wrong("names no bucket");
    }
    if !prefix.is_empty() && prefix.split('/').any(|name| name.is_empty() || name.starts_with('.')) {
        return wrong("a name in the prefix is empty or begins with a dot");
    }
    use_ring();
    // Longer than a short outage, shorter than a user's patience with a wrong address.
    let retry =
        RetryConfig { max_retries: 6, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
    let built: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
        "s3" => {
            let start = AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry);
            let set = |builder: AmazonS3Builder, (key, value)| builder.with_config(key, value);
            variables("AWS_")?.into_iter().fold(start, set).build().map(|store| Arc::new(store) as _)
        }
        "gs" => {
            let start = GoogleCloudStorageBuilder::new().with_bucket_name(bucket).with_retry(retry);
            let set = |builder: GoogleCloudStorageBuilder, (key, value)| builder.with_config(key, value);
            variables("GOOGLE_")?.into_iter().fold(start, set).build().map(|store| Arc::new(store) as _)
        }
        "az" => {
            let start = MicrosoftAzureBuilder::new().with_container_name(bucket).with_retry(retry);
            let set = |builder: MicrosoftAzureBuilder, (key, value)| builder.with_config(key, value);
            variables("AZURE_")?.into_iter().fold(start, set).build().map(|store| Arc::new(store) as _)
        }
        _ => return wrong("this is not an address of object storage"),
    };
    let said = |e| Error::input(format!("{url}: {}", super::one_line(&e))).hint(VARIABLES);
    Ok((built.map_err(said)?, prefix.to_owned()))
}

/// Environment variables whose names begin with the prefix. An empty value counts as unset.
fn variables<K: FromStr>(prefix: &str) -> Result<Vec<(K, String)>> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else { continue };
        if !name.starts_with(prefix) || value.is_empty() {
            continue;
        }
        let Ok(key) = name.to_ascii_lowercase().parse() else { continue };
        // The client panics on a malformed address.
        let is_address = name.contains("ENDPOINT") || name.ends_with("_URL");
        if is_address && !Url::parse(&value).is_ok_and(|url| url.has_host()) {
            return Err(Error::input(format!("{name}: `{}` is not a URL", value.escape_debug()))
                .hint("an address is http://HOST:PORT or https://HOST"));
        }
        found.push((key, value));
    }
    Ok(found)
}

/// Selects the cryptography for every connection: the same as for model downloads.
fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that the program has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
