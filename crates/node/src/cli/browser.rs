use api::http::BrowserRules;
use clap::Args;

/// Which hosts and web pages a server answers.
#[derive(Clone, Debug, Args)]
pub(crate) struct BrowserArgs {
    /// Host name or address under which the server is reached, besides loopback names and the listening address; may be repeated. Requests
    /// with another `Host` are refused, because a web page may have made them.
    #[arg(long = "allow-host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Let the web pages of this origin use the server (CORS), as in https://app.example; may be repeated. Without it no page can.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub(crate) origins: Vec<String>,
}

impl BrowserArgs {
    /// The rules for a server.
    pub(crate) fn rules(&self) -> anyhow::Result<BrowserRules> {
        Ok(BrowserRules::new(&self.hosts, &self.origins)?)
    }
}
