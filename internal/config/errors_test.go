package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// Each case is one wrong file and the whole text of its errors.
func TestErrors(t *testing.T) {
	for name, test := range map[string]struct{ toml, want string }{
		"unknown key of a deployment": {
			"[deployments.web]\nrepository = \"octo/web\"\n  brnach = \"main\"\nbranch = \"main\"\npath = \"/srv/web\"\nsteps = []",
			`a.toml:3:3: unknown key "brnach" in [deployments.web]; did you mean "branch"?`,
		},
		"unknown key at the top": {
			`orgin = "https://a.example"`,
			`a.toml:1:1: unknown key "orgin" at the top level; did you mean "origin"?`,
		},
		"a relative deploy key": {
			web(build1, `key = "web.key"`),
			`a.toml:6:1: deployments.web.key must be an absolute path, not "web.key"; begin it with "/"`,
		},
		"a deploy key that a shell would take apart": {
			web(build1, `key = "/etc/it's; touch x"`),
			`a.toml:6:1: deployments.web.key "/etc/it's; touch x" has characters that ssh may take for something else; keep it at a path of letters, digits and @_+=:,.-`,
		},
		"a deploy key in what ssh would expand": {
			web(build1, `key = "/etc/%h.key"`),
			`a.toml:6:1: deployments.web.key "/etc/%h.key" has characters that ssh may take for something else; keep it at a path of letters, digits and @_+=:,.-`,
		},
		"a deploy key beside a state_dir that ssh cannot be given": {
			"state_dir = \"/var/lib/my deployer\"\n" + web(build1, `key = "/etc/web.key"`),
			`a.toml:7:1: deployments.web.key needs a state_dir whose path ssh can be given, not "/var/lib/my deployer"; choose one of letters, digits and @_+=:,.-`,
		},
		"two slips in a long key": {
			`webhok_secret_tokne = "top-secret-value"`,
			`a.toml:1:1: unknown key "webhok_secret_tokne" at the top level; did you mean "webhook_secret_token"?`,
		},
		"unknown table": {
			"[listne]\nport = 1",
			`a.toml:1:2: unknown key "listne" at the top level; did you mean "listen"?`,
		},
		"unknown key of a step": {
			web() + "[[deployments.web.steps]]\nname = \"a\"\nrun = [\"a\"]\ncwd = \"x\"",
			`a.toml:9:1: unknown key "cwd" in [[deployments.web.steps]]; the keys here are dir, env, name, run, timeout`,
		},
		"unknown key of an inline table": {
			"listen = { host = \"a\",\n prot = 1 }",
			`a.toml:2:2: unknown key "prot" in [listen]; did you mean "port"?`,
		},
		"a dotted key": {
			"listen.prot = 1",
			`a.toml:1:8: unknown key "prot" in [listen]; did you mean "port"?`,
		},
		"a key of another table": {
			"[listen]\nwebhook_secret_token = \"top-secret-value\"",
			`a.toml:2:1: unknown key "webhook_secret_token" in [listen]; it belongs at the top level, above the first [table]`,
		},
		"a deployment's key at the top": {
			`repository = "octo/web"`,
			`a.toml:1:1: unknown key "repository" at the top level; it belongs in [deployments.<slug>]`,
		},
		"a strange key": {
			`"a\nb" = 1`,
			`a.toml:1:1: unknown key "a\nb" at the top level; the keys here are admin, database_url, deployments, env, env_file, executable_search_paths, github, helper, instance, listen, lock, notify, origin, proxy_fix, reconcile, retention, signing_key_file, state_dir, webhook_secret_file, webhook_secret_token, work`,
		},
		"two candidates": {
			"[proxy_fix]\nx_prot = 1",
			`a.toml:2:1: unknown key "x_prot" in [proxy_fix]; did you mean "x_proto" or "x_port"?`,
		},
		"several at once, in order": {
			"origin = 1\n[listen]\nhost = true\nport = \"80\"\n[admin]\nport = 1.5",
			"a.toml:1:1: origin must be a string, not a whole number\n" +
				"a.toml:3:1: listen.host must be a string, not true or false\n" +
				"a.toml:4:1: listen.port must be a whole number, not a string\n" +
				"a.toml:6:1: admin.port must be a whole number, not another kind of value",
		},
		"a value for a table":    {`listen = "localhost:80"`, `a.toml:1:1: listen must be a table, not a string`},
		"a table for a value":    {"[origin]\na = 1", `a.toml:1:2: origin must be a string, not a table`},
		"a value for a name":     {"[deployments]\nweb = \"octo/web\"", `a.toml:2:1: deployments.web must be a table, not a string`},
		"a list for deployments": {"[[deployments]]", `a.toml:1:3: deployments must be a table, not a list`},
		"a mixed list":           {"executable_search_paths = [\"/a\",\n  1]", `a.toml:2:3: executable_search_paths[1] must be a string, not a whole number`},
		"a table for steps":      {web(`steps = { name = "a" }`), `a.toml:5:1: deployments.web.steps must be a list of tables, not a table`},
		"a list of strings for steps": {
			web(`steps = ["make"]`), `a.toml:5:10: deployments.web.steps[0] must be a table, not a string`,
		},
		"run as one string": {
			web(`steps = [{ name = "a", run = "make all" }]`),
			`a.toml:5:24: deployments.web.steps[0].run must be a list of strings, not a string`,
		},
		"a number in env": {
			web(`steps = [{ name = "a", run = ["a"], env = { A = 1 } }]`),
			`a.toml:5:45: deployments.web.steps[0].env.A must be a string, not a whole number`,
		},
		"a number in the top env": {"[env]\nA = 1", `a.toml:2:1: env.A must be a string, not a whole number`},
		"pass that is no list":    {"[env]\npass = \"A\"", `a.toml:2:1: env.pass must be a list of strings, not a string`},
		"pass of no name":         {"[env]\npass = [\"A*\"]", `a.toml:2:9: env.pass is not the name of a variable: "A*"; use letters, digits and underscores, the first no digit`},
		"relative env_file":       {`env_file = ".env"`, `a.toml:1:1: env_file must be an absolute path, not ".env"; begin it with "/"`},
		"missing env_file": {
			web(build1, `env_file = "/no/such/file"`), `a.toml:6:1: deployments.web.env_file "/no/such/file" cannot be used: there is no such file`,
		},
		"a device as env_file": {`env_file = "/dev/zero"`, `a.toml:1:1: env_file "/dev/zero" cannot be used: it is not a regular file`},
		"syntax":               {"origin = \"a", `a.toml:1:11: unterminated basic string`},
		"a double key":         {"[listen]\nport = 1\nport = 2", `a.toml:3:1: key port is already defined`},
		"a bare secret":        {"webhook_secret_token = hunter2", `a.toml:1:24: unexpected character U+0068 'h' at start of value`},
		"UTF-16":               {"\xff\xfeo\x00", `a.toml:1:1: this file is UTF-16; save it as UTF-8`},

		"origin not a URL":       {`origin = "deploy.example.com"`, `a.toml:1:1: origin is not an http or https URL; write it like "https://deploy.example.com"`},
		"admin.url not a URL":    {"[admin]\nurl = \"deploy.example.com\"", `a.toml:2:1: admin.url is not an http or https URL; write it like "https://deploy.example.com"`},
		"admin.url with a path":  {"[admin]\nurl = \"https://a.example/deploys/\"", `a.toml:2:1: admin.url has the path "/deploys", but the pages begin at the root of a host; give the dashboard its own name`},
		"a header of browsers":   {"[admin]\nuser_header = \"Cookie\"", `a.toml:2:1: admin.user_header "Cookie" is a header that browsers set; write the name of a header that only the proxy sets, like "X-Remote-User"`},
		"no header":              {"[admin]\nuser_header = \"X-Remote-User:\"", `a.toml:2:1: admin.user_header "X-Remote-User:" is not the name of a header; write the name of a header that only the proxy sets, like "X-Remote-User"`},
		"origin with a password": {`origin = "https://a:hunter2@b.example"`, `a.toml:1:1: origin must have neither a user, a query nor a fragment; write it like "https://deploy.example.com"`},
		"instance":               {`instance = "a b"`, `a.toml:1:1: instance "a b" must be 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit`},
		"relative key":           {`signing_key_file = "signer.key"`, `a.toml:1:1: signing_key_file must be an absolute path, not "signer.key"; begin it with "/"`},
		"relative state_dir":     {`state_dir = "state"`, `a.toml:1:1: state_dir must be an absolute path, not "state"; begin it with "/"`},
		"database_url":           {`database_url = "postgres://u:hunter2@host:port/db"`, `a.toml:1:1: database_url is not a Postgres connection string; write it like "postgres://user:password@host:5432/database"`},
		"database_url in words":  {`database_url = "host=x password=hunter2 port=y"`, `a.toml:1:1: database_url is not a Postgres connection string; write it like "postgres://user:password@host:5432/database"`},
		"database_url with a missing file": {
			`database_url = "host=x password=hunter2 sslmode=verify-full sslrootcert=/no/such/file"`,
			`a.toml:1:1: database_url names the file "/no/such/file", which cannot be read: there is no such file; write it like "postgres://user:password@host:5432/database"`,
		},
		"port too large":             {"listen.port = 65536", `a.toml:1:8: listen.port must be from 0 to 65535, not 65536`},
		"port negative":              {"admin.port = -1", `a.toml:1:7: admin.port must be from 0 to 65535, not -1`},
		"a port in host":             {`listen.host = "localhost:80"`, `a.toml:1:8: listen.host is not a host: "localhost:80"; write a name or an address, without brackets; the port has its own key`},
		"brackets in host":           {`listen.host = "[::1]"`, `a.toml:1:8: listen.host is not a host: "[::1]"; write a name or an address, without brackets; the port has its own key`},
		"spaces in host":             {`listen.host = "a b"`, `a.toml:1:8: listen.host is not a host: "a b"; write a name or an address, without a port`},
		"two servers, one port":      {"listen = { host = \"127.0.0.1\", port = 3401 }", `a.toml:1:32: listen and admin are both 127.0.0.1:3401; give them different ports`},
		"too many proxies":           {"proxy_fix.x_for = 17", `a.toml:1:11: proxy_fix.x_for must be from 0 to 16, not 17`},
		"lock scheme":                {`lock.url = "http://:hunter2@localhost"`, `a.toml:1:6: lock.url must be a redis://, rediss:// or unix:// URL; write it like "redis://localhost:6379/0"`},
		"lock url":                   {`lock.url = "redis://:hunter2@localhost/x"`, `a.toml:1:6: lock.url is not a URL that the Redis client understands; write it like "redis://user:password@host:6379/0" or "unix:///path/to/socket?db=0"`},
		"lock ttl":                   {`lock.ttl = "10ms"`, `a.toml:1:6: lock.ttl must be at least 1s: the lock is refreshed several times in that time`},
		"relative search path":       {`executable_search_paths = ["bin"]`, `a.toml:1:28: executable_search_paths must be absolute paths without a colon, not "bin"; begin it with "/"`},
		"empty secret":               {`webhook_secret_token = " "`, `a.toml:1:1: webhook_secret_token is empty: anybody could sign a delivery with it; write a long random string, or leave the key out`},
		"an empty secret of two":     {"webhook_secret_token = [\"hunter2\",\n \"\"]", `a.toml:2:2: webhook_secret_token is empty: anybody could sign a delivery with it; write a long random string, or leave the key out`},
		"too small a pool":           {`database_url = "postgres://localhost/db?pool_max_conns=3"`, `a.toml:1:1: database_url allows 3 connections at once (pool_max_conns), and at least 4 are needed; write pool_max_conns=4 or more, or leave it out`},
		"relative secret file":       {`webhook_secret_file = "secret"`, `a.toml:1:1: webhook_secret_file must be an absolute path, not "secret"; begin it with "/"`},
		"missing secret file":        {`webhook_secret_file = "/no/such/file"`, `a.toml:1:1: webhook_secret_file "/no/such/file" cannot be used: there is no such file`},
		"remotes asked all the time": {`reconcile = "5s"`, `a.toml:1:1: reconcile must be at least 10s: each remote is asked as often; or "0", which is never`},
		"a relative token file":      {"[github]\ntoken_file = \"token\"", `a.toml:2:1: github.token_file must be an absolute path, not "token"; begin it with "/"`},
		"an App without a key":       {"[github]\napp_id = 1", `a.toml:2:1: [github] needs app_id and private_key_file together; both are on the App's page at GitHub; or write token_file in place of them`},
		"an API in the clear": {"[github]\napi_url = \"http://github.example.com/api/v3\"",
			`a.toml:2:1: github.api_url "http://github.example.com/api/v3" would send the token over the network for anyone to read; write https`},
		"an API of no URL": {"[github]\napi_url = \"github.example.com\"",
			`a.toml:2:1: github.api_url is not an https URL; leave it out for github.com, or write it like "https://github.example.com/api/v3"`},
		"a device as secret": {`webhook_secret_file = "/dev/zero"`, `a.toml:1:1: webhook_secret_file "/dev/zero" cannot be used: it is not a regular file`},

		"slug with a slash": {"[deployments.\"a/b\"]", `a.toml:1:14: deployment "a/b": a slug is 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit; it names a queue's directory`},
		"slug of dots":      {"[deployments.\"..\"]", `a.toml:1:14: deployment "..": a slug is 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit; it names a queue's directory`},
		"slug main":         {"[deployments.Main]", `a.toml:1:14: deployment "Main": this slug is the name of the main queue; choose another`},
		"slugs by case": {
			web(build1) + strings.NewReplacer("web]", "Web]", "/var/www/web", "/srv").Replace(web(build1)),
			`a.toml:1:14: deployments "Web" and "web" differ only in upper and lower case; rename one`,
		},
		"one path twice": {
			web(build1) + strings.NewReplacer("web]", "two]", "/www/web", "/www//web/").Replace(web(build1)),
			`a.toml:4:1: deployments "two" and "web" have the same path "/var/www/web"; each needs its own directory`,
		},
		"an empty deployment": {
			"[deployments.web]",
			`a.toml:1:14: deployment "web" does not say how to deploy it; add [[deployments.web.steps]] (command), instance_name (pm2), sites (nginx) or systemd_unit_name (self), or say handler = "command" if the checkout is all there is to do` + "\n" +
				`a.toml:1:14: [deployments.web] has no branch; add branch = "main"` + "\n" +
				`a.toml:1:14: [deployments.web] has no path; add path = "/var/www/..."` + "\n" +
				`a.toml:1:14: [deployments.web] has no repository; add repository = "owner/name"`,
		},
		"several handlers": {
			web(build1, `instance_name = "web"`),
			`a.toml:6:1: deployment "web" has the keys of several handlers: steps, instance_name; remove all but one, or say which with handler = "command"`,
		},
		"an unknown handler":    {web(`handler = "pm3"`), `a.toml:5:1: deployments.web.handler must be "command", "pm2", "nginx" or "self", not "pm3"; did you mean "pm2"?`},
		"a handler without key": {web(`handler = "pm2"`), `a.toml:5:1: deployment "web" has handler "pm2" and no instance_name; add instance_name`},
		"repository as a URL":   {strings.Replace(web(build1), "octo/web", "https://github.com/octo/web", 1), `a.toml:2:1: deployments.web.repository "https://github.com/octo/web" is a URL; write "owner/name"; a URL to fetch from goes into remote`},
		"repository of dots":    {strings.Replace(web(build1), "octo/web", "octo/..", 1), `a.toml:2:1: deployments.web.repository "octo/.." is not of the form "owner/name"`},
		"repository.git":        {strings.Replace(web(build1), "octo/web", "octo/web.git", 1), `a.toml:2:1: deployments.web.repository "octo/web.git" ends in .git, which no repository's name does; write "octo/web"`},
		"relative path":         {strings.Replace(web(build1), "/var/www", "www", 1), `a.toml:4:1: deployments.web.path "www/web" is a relative path; begin it with "/"`},
		"the root as path":      {strings.Replace(web(build1), "/var/www/web", "/var/..", 1), `a.toml:4:1: deployments.web.path "/var/.." is the root directory; name a directory for it`},
		"a word for a duration": {web(build1, `timeout = "ten minutes"`), `a.toml:6:1: deployments.web.timeout is not a duration: "ten minutes"; write it like "90s", "10m", "1h30m" or "90d", or as whole seconds`},
		"half a day":            {"[retention]\nrun_logs = \"1.5d\"\n" + web(build1, ""), `a.toml:2:1: retention.run_logs is not a duration: "1.5d"; write it like "90s", "10m", "1h30m" or "90d", or as whole seconds`},
		"a size of what":        {web(build1, `memory_max = "512Q"`), `a.toml:6:1: deployments.web.memory_max is not a size: "512Q"; write it like "512M" or "2G", or as whole bytes`},
		"a size beyond all":     {web(build1, `memory_max = "9999999999T"`), `a.toml:6:1: deployments.web.memory_max is not a size: "9999999999T"; write it like "512M" or "2G", or as whole bytes`},
		"half a size":           {web(build1, `memory_max = 0.5`), `a.toml:6:1: deployments.web.memory_max must be a size like "512M" or "2G", or a whole number of bytes, not another kind of value`},
		"a forgotten letter":    {web(build1, `memory_max = 512`), `a.toml:6:1: deployments.web.memory_max must be at least 1M, not 512; write it like "512M" or "2G"`},
		"a size below nothing":  {web(build1, `memory_max = "-1G"`), `a.toml:6:1: deployments.web.memory_max must be at least 1M, not -1G; write it like "512M" or "2G"`},
		"less than no tasks":    {web(build1, `tasks_max = -1`), `a.toml:6:1: deployments.web.tasks_max must be from 0 to 4194304, not -1`},
		"a user by its number":  {web(build1, `user = "1000"`), `a.toml:6:1: deployments.web.user "1000" is not the name of a user; write a name of /etc/passwd, like "app"`},
		"a user like an option": {web(build1, `user = "-app"`), `a.toml:6:1: deployments.web.user "-app" is not the name of a user; write a name of /etc/passwd, like "app"`},
		"a decimal umask":       {web(build1, `umask = "29"`), `a.toml:6:1: deployments.web.umask "29" is not a umask in octal digits; write it like "027"`},
		"a umask of none":       {web(build1, `umask = "000"`), `a.toml:6:1: deployments.web.umask "000" lets everybody on the host write to what steps make; write "002" where only the group should`},
		"a umask against us":    {web(build1, `umask = "277"`), `a.toml:6:1: deployments.web.umask "277" takes rights from the user itself, who could not go on with what it has made; write it like "027"`},
		"nicer than can be":     {web(build1, `nice = 20`), `a.toml:6:1: deployments.web.nice must be from 0 to 19, not 20`},
		"less nice":             {web(build1, `nice = -5`), `a.toml:6:1: deployments.web.nice must be from 0 to 19, not -5`},
		"no time to fetch":      {web(build1, `fetch_timeout = "0d"`), `a.toml:6:1: deployments.web.fetch_timeout must be more than zero`},
		"no time at all":        {web(build1, `timeout = 0`), `a.toml:6:1: deployments.web.timeout must be more than zero`},
		"negative time":         {web(build1, `timeout = -9223372036854775808`), `a.toml:6:1: deployments.web.timeout must be more than zero`},
		"too much time":         {web(build1, `timeout = 9223372036854775807`), `a.toml:6:1: deployments.web.timeout is too long: 9223372036854775807 seconds`},
		"pending":               {web(build1, `pending = "lastest"`), `a.toml:6:1: deployments.web.pending must be "every" or "latest", not "lastest"; did you mean "latest"?`},
		"on_interrupt":          {web(build1, `on_interrupt = "ignore"`), `a.toml:6:1: deployments.web.on_interrupt must be "retry" or "fail", not "ignore"`},
		"transport helper":      {web(build1, `remote = "ext::sh -c id"`), `a.toml:6:1: deployments.web.remote must not be empty or contain spaces or control characters; write an https, http, ssh, git or file URL, user@host:path, or an absolute path`},
		"helper without spaces": {web(build1, `remote = "ext::id"`), `a.toml:6:1: deployments.web.remote is neither a URL nor an absolute path; write an https, http, ssh, git or file URL, user@host:path, or an absolute path`},
		"remote as an option":   {web(build1, `remote = "--upload-pack=x"`), `a.toml:6:1: deployments.web.remote must not begin with a dash; write an https, http, ssh, git or file URL, user@host:path, or an absolute path`},
		"remote with a port":    {web(build1, `remote = "https://u:hunter2@h:x/a"`), `a.toml:6:1: deployments.web.remote is not a URL; write an https, http, ssh, git or file URL, user@host:path, or an absolute path`},
		"remote's scheme":       {web(build1, `remote = "ftp://u:hunter2@h/a"`), `a.toml:6:1: deployments.web.remote has a scheme that is not allowed; write an https, http, ssh, git or file URL, user@host:path, or an absolute path`},
		"a relative remote":     {web(build1, `remote = "../web.git"`), `a.toml:6:1: deployments.web.remote is neither a URL nor an absolute path; write an https, http, ssh, git or file URL, user@host:path, or an absolute path`},
		"url not a URL":         {web(build1, `url = "www.example.com"`), `a.toml:6:1: deployments.web.url "www.example.com" is not an http or https URL without a user; write it like "https://www.example.com"`},
		"health":                {web(build1, `health = "localhost:3000"`), `a.toml:6:1: deployments.web.health "localhost:3000" is not an http or https URL without a user; write it like "http://localhost:3000/healthz"`},
		"unit name":             {web(`systemd_unit_name = "-a b"`), `a.toml:5:1: deployments.web.systemd_unit_name "-a b" is not the name of a systemd unit`},

		"health without url":     {web(build1, `health = {}`), `a.toml:6:1: deployments.web.health says neither which url to ask nor which command to run; write url = "http://localhost:3000/healthz", or command = ["program", "argument"]`},
		"two kinds of health":    {web(build1, `health = { url = "http://a/", command = ["a"] }`), `a.toml:6:31: deployments.web.health.command stands beside a url, and one of them is asked; remove the other`},
		"health by nothing":      {web(build1, `health.command = []`), `a.toml:6:8: deployments.web.health.command names no program; write url = "http://localhost:3000/healthz", or command = ["program", "argument"]`},
		"an answer of a command": {web(build1, `health = { command = ["a"], expect = "ok" }`), `a.toml:6:29: deployments.web.health.expect is for the answer of a url: a command is healthy where it exits with 0; remove it`},
		"an unknown status":      {web(build1, `health = { url = "http://a/", expect = { status = 20 } }`), `a.toml:6:42: deployments.web.health.expect.status must be from 100 to 599, not 20`},
		"no successes":           {web(build1, `health = { url = "http://a/", successes = 0 }`), `a.toml:6:31: deployments.web.health.successes must be at least 1, not 0`},
		"too little time": {
			web(build1, `health = { url = "http://a/", timeout = 5, interval = "2s", successes = 3 }`),
			`a.toml:6:31: deployments.web.health.timeout of 5s is too short for the interval of 2s and 3 successes; write at least interval times successes`,
		},
		"too long an interval": {
			web(build1, `health = { url = "http://a/", interval = "1m" }`),
			`a.toml:6:1: deployments.web.health.timeout of 30s is too short for the interval of 1m0s and 1 successes; write at least interval times successes`,
		},
		"a strategy": {web(build1, `strategy = "release"`), `a.toml:6:1: deployments.web.strategy must be "in-place" or "releases", not "release"; did you mean "releases"?`},
		"releases of nginx": {
			web(`sites = []`, `strategy = "releases"`),
			`a.toml:6:1: deployments.web.strategy "releases" is for the handlers "command" and "pm2", and not for "nginx"; remove it: the commit is put into the path itself`,
		},
		"no release kept":          {web(build1, `strategy = "releases"`, `keep = 0`), `a.toml:7:1: deployments.web.keep must be at least 1; the release that is live always stays`},
		"sharing out of it":        {web(build1, `strategy = "releases"`, `shared = ["../a"]`), `a.toml:7:11: deployments.web.shared[0] "../a" is not inside of a release; write it relative to the release, without ".."`},
		"sharing all of it":        {web(build1, `strategy = "releases"`, `shared = ["."]`), `a.toml:7:11: deployments.web.shared[0] "." is not inside of a release; write it relative to the release, without ".."`},
		"sharing a slash":          {web(build1, `strategy = "releases"`, `shared = ["a/"]`), `a.toml:7:11: deployments.web.shared[0] "a/" is not written plainly; write "a"`},
		"sharing git's own":        {web(build1, `strategy = "releases"`, `shared = [".git/config"]`), `a.toml:7:11: deployments.web.shared[0] ".git/config" is git's own`},
		"sharing twice":            {web(build1, `strategy = "releases"`, `shared = ["a", "a/b"]`), `a.toml:7:16: deployments.web.shared[1] "a/b" is inside of "a", which is shared, too; remove it`},
		"a step named switch":      {web(`steps = [{ name = "switch", run = ["a"] }]`, `strategy = "releases"`), `a.toml:5:12: deployments.web.steps[0].name "switch" is the name of another step; give each step its own name`},
		"a health of a wrong form": {web(build1, `health = 5`), `a.toml:6:1: deployments.web.health must be a string or a table, not a whole number`},
		"a step named health":      {web(`steps = [{ name = "health", run = ["a"] }]`, `health = "http://a/"`), `a.toml:5:12: deployments.web.steps[0].name "health" is the name of another step; give each step its own name`},
		"a script named health":    {web(`instance_name = "a"`, `scripts = ["health"]`, `health = "http://a/"`), `a.toml:6:12: deployments.web.scripts[0] "health" is the name of another step; give the script another name in package.json`},
		"on_failure":               {web(build1, `on_failure = "rolback"`), `a.toml:6:1: deployments.web.on_failure must be "none" or "rollback", not "rolback"; did you mean "rollback"?`},

		"whom to tell, without a name":    {notify(`url = "ntfy://ntfy.sh/top-secret"`), `a.toml:1:3: [[notify]] has no name; add name = "team"`},
		"a name that is a path":           {notify(`name = "a/b"`, `url = "ntfy://ntfy.sh/top-secret"`), `a.toml:2:1: notify[0].name "a/b" must be ` + names.PlainRule},
		"whom to tell twice":              {notify(`name = "a"`, ntfy) + notify(`name = "a"`, ntfy), `a.toml:4:3: two entries of [[notify]] are called "a"; rename one: what is owed to an entry is kept under its name`},
		"no service of that name":         {notify(`name = "a"`, `url = "slak://hook:top-secret@webhook"`), `a.toml:3:1: notify[0].url of [[notify]] "a" cannot be used: "slak" is not the name of a service; the services are ` + services + "; " + adviceNotify},
		"a webhook without its service":   {notify(`name = "a"`, `url = "https://hooks.slack.com/services/top-secret"`), `a.toml:3:1: notify[0].url of [[notify]] "a" cannot be used: it is the address of a website, and not a service; write generic+https:// for a webhook, and for others what shoutrrr calls them; ` + adviceNotify},
		"no URL of a service":             {notify(`name = "a"`, `url = "top-secret %zz"`), `a.toml:3:1: notify[0].url of [[notify]] "a" cannot be used: it is not a URL; ` + adviceNotify},
		"a wrong URL of a service":        {notify(`name = "a"`, `url = "telegram://top-secret@telegram?chats=1"`), `a.toml:3:1: notify[0].url of [[notify]] "a" cannot be used: invalid telegram token: ***:; ` + adviceNotify},
		"a setting that no service has":   {notify(`name = "a"`, `url = "discord://top-secret@1234567?titel=hunter2"`), `a.toml:3:1: notify[0].url of [[notify]] "a" cannot be used: setting config URL: setting config value for key titel: not a valid config key: titel (valid keys: [avatar avatarurl color colordebug colorerror colorinfo colorwarn json splitlines thread_id title username]); ` + adviceNotify},
		"a url and a url_file":            {notify(`name = "a"`, ntfy, `url_file = "/nowhere"`), `a.toml:4:1: notify[0] has both url and url_file; leave one out`},
		"nothing to be told":              {notify(`name = "a"`, ntfy, `on = []`), `a.toml:4:1: notify[0].on is empty: "a" would be told nothing; leave it out, or remove the entry`},
		"something that is not told":      {notify(`name = "a"`, ntfy, `on = ["fialed"]`), `a.toml:4:7: notify[0].on[0] must be "failed", "recovered", "deployed", "interrupted", "waiting", "stopped" or "tampered", not "fialed"; did you mean "failed"?`},
		"told of a deployment in no file": {notify(`name = "a"`, ntfy, `deployments = ["wbe"]`) + web(build1), `a.toml:4:16: there is no deployment "wbe", which "a" is to be told of; did you mean "web"?`},
		"told of waiting at once":         {notify(`name = "a"`, ntfy, `waiting = 0`), `a.toml:4:1: notify[0].waiting must be more than zero`},

		"an empty step": {
			web(`steps = [{}]`),
			`a.toml:5:10: [[deployments.web.steps]] has no name; add name = "build"` + "\n" +
				`a.toml:5:10: [[deployments.web.steps]] has no run; add run = ["program", "argument"]`,
		},
		"an empty run":        {web(`steps = [{ name = "a", run = [] }]`), `a.toml:5:24: deployments.web.steps[0].run names no program; write run = ["program", "argument"]`},
		"no program":          {web(`steps = [{ name = "a", run = ["", "a"] }]`), `a.toml:5:24: deployments.web.steps[0].run names no program; write run = ["program", "argument"]`},
		"a NUL in run":        {web(`steps = [{ name = "a", run = ["a", "\u0000"] }]`), `a.toml:5:36: deployments.web.steps[0].run[1] has a NUL character, which no program can be given`},
		"an empty step name":  {web(`steps = [{ name = " ", run = ["a"] }]`), `a.toml:5:12: deployments.web.steps[0].name " " is empty; say in a word or two what it does`},
		"an escape in a name": {web(`steps = [{ name = "a\u001b[31m", run = ["a"] }]`), `a.toml:5:12: deployments.web.steps[0].name "a\x1b[31m" must be printable, without a space at either end`},
		"a step name twice": {
			web(`steps = [{ name = "a", run = ["a"] }, { name = "a", run = ["b"] }]`),
			`a.toml:5:41: deployments.web.steps[1].name "a" is the name of another step; give each step its own name`,
		},
		"a step with the name of a restart": {
			web(`restart = ["-x", "app.service"]`, `steps = [{ name = "restart app.service", run = ["a"] }]`),
			`a.toml:5:12: deployments.web.restart[0] "-x" is not the name of a systemd unit` + "\n" +
				`a.toml:6:12: deployments.web.steps[0].name "restart app.service" is the name of another step; give each step its own name`,
		},
		"a step named fetch": {web(`steps = [{ name = "fetch", run = ["a"] }]`),
			`a.toml:5:12: deployments.web.steps[0].name "fetch" is the name of a step that comes before the configured ones; choose another`},
		"a step named checkout": {web(`steps = [{ name = "a", run = ["a"] }, { name = "checkout", run = ["a"] }]`),
			`a.toml:5:41: deployments.web.steps[1].name "checkout" is the name of a step that comes before the configured ones; choose another`},
		"dir outside":     {web(`steps = [{ name = "a", run = ["a"], dir = "x/../../y" }]`), `a.toml:5:37: deployments.web.steps[0].dir "x/../../y" is not inside of the deployment's path; write it relative to path, without ".."`},
		"an absolute dir": {web(`steps = [{ name = "a", run = ["a"], dir = "/etc" }]`), `a.toml:5:37: deployments.web.steps[0].dir "/etc" is not inside of the deployment's path; write it relative to path, without ".."`},
		"variable name":   {web(`steps = [{ name = "a", run = ["a"], env = { "A=B" = "" } }]`), `a.toml:5:45: deployments.web.steps[0].env is not the name of a variable: "A=B"; use letters, digits and underscores, the first no digit`},
		"site rule":       {web(`sites = [{ rule = "inclued", select = [] }]`), `a.toml:5:12: deployments.web.sites[0].rule must be "include" or "exclude", not "inclued"; did you mean "include"?`},
		"site traversal":  {web(`sites = [{ rule = "include", select = ["../x"] }]`), `a.toml:5:40: deployments.web.sites[0].select[0] "../x" is not the name of a site; write it like "www.example.com", or "*" for all`},
		"an empty site rule": {
			web(`sites = [{}]`),
			`a.toml:5:10: [[deployments.web.sites]] has no rule; add rule = "include" or rule = "exclude"` + "\n" +
				`a.toml:5:10: [[deployments.web.sites]] has no select; add select = ["site.example.com"], or "*" in it for all`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parse(environment(), test.toml)
			if err == nil {
				t.Fatalf("no error, want:\n%s\ngot %s", test.want, dump(c))
			}
			var all *Errors
			var one *Error
			if !errors.As(err, &all) || !errors.As(err, &one) {
				t.Fatalf("error is a %T", err)
			}
			if got := err.Error(); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "top-secret") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// notify is an entry of whom to tell.
func notify(lines ...string) string { return "[[notify]]\n" + strings.Join(lines, "\n") + "\n" }

const ntfy = `url = "ntfy://ntfy.sh/top-secret"`

const services = "bark, discord, generic, googlechat, gotify, hangouts, ifttt, join, lark, matrix, mattermost, notifiarr, ntfy, opsgenie, " +
	"pagerduty, pushbullet, pushover, rocketchat, signal, slack, smtp, teams, telegram, wecom, zulip"

func TestBranches(t *testing.T) {
	good := []string{"main", "release/1.0", "a", "--upload-pack=x", "-", ";$(id)", "feature/\u00fc", "dependabot/npm_and_yarn/x-1.2", "a@b", "a.lock.b", strings.Repeat("x", 244)}
	bad := []string{"", "@", "HEAD", "/a", "a/", "a//b", "a..b", "a@{1}", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "a b", "a\tb", "a\x7f", "a~1", "a^", "a:b", "a?", "a*", "a[b", `a\b`, "\xff", strings.Repeat("x", 245)}
	for _, branch := range good {
		if wrong, _ := wrongBranch(branch); wrong != "" {
			t.Errorf("%q %s", branch, wrong)
		}
	}
	for _, branch := range bad {
		if wrong, _ := wrongBranch(branch); wrong == "" {
			t.Errorf("%q is accepted", branch)
		}
	}
}

func TestRemotes(t *testing.T) {
	for remote, shown := range map[string]string{
		"https://github.com/octo/web.git":        "https://github.com/octo/web.git",
		"http://localhost:3000/web.git":          "http://localhost:3000/web.git",
		"https://u:p4ssword@example.com/web.git": "https://u:[secret]@example.com/web.git",
		"https://ghp_token@example.com/web.git":  "https://[secret]@example.com/web.git",
		"https://example.com/web.git?token=abcd": "https://example.com/web.git?[secret]",
		"ssh://git@example.com:22/web.git":       "ssh://git@example.com:22/web.git",
		"git@example.com:octo/web.git":           "git@example.com:octo/web.git",
		"git://example.com/web.git":              "git://example.com/web.git",
		"file:///srv/git/web.git":                "file:///srv/git/web.git",
		"/srv/git/web.git":                       "/srv/git/web.git",
	} {
		if wrong, _ := wrongRemote(remote); wrong != "" {
			t.Errorf("%q %s", remote, wrong)
		}
		if got := mask.URL(remote); got != shown {
			t.Errorf("%q is shown as %q, want %q", remote, got, shown)
		}
	}
}

func TestWarnings(t *testing.T) {
	for name, test := range map[string]struct{ toml, want string }{
		"an open admin": {`admin.host = "0.0.0.0"`, `a.toml:1: admin.host "0.0.0.0" may be reached from other machines, and the admin pages ask for no password`},
		"refs/heads":    {strings.Replace(web(build1), `"main"`, `"refs/heads/main"`, 1), `a.toml:3: branch "refs/heads/main" is meant without refs/heads/: a push to "main" will not match`},
		"a shell line": {
			web(`steps = [{ name = "a", run = ["make all"] }]`),
			`a.toml:5: deployments.web.steps[0].run is one word with spaces in it, "make all": there is no shell that would split it; write each argument as its own element`,
		},
		"a path inside of another": {
			web(build1) + "[deployments.api]\nrepository = \"o/api\"\nbranch = \"main\"\npath = \"/var/www/web/sub/api\"\nhandler = \"command\"\n",
			`a.toml:9: the path of "api" is inside that of "web", which must be deployed first: it is not cloned into a directory that is not empty`,
		},
		"shared in place": {web(build1, `shared = ["a"]`), `a.toml:6: deployments.web.shared has no effect without strategy = "releases"`},
		"an idle key":     {web(`handler = "command"`, `sites = []`), `a.toml:6: deployments.web.sites has no effect: the handler is "command"`},
		"SQLAlchemy":      {`database_url = "postgresql+psycopg://u:hunter2@localhost/db"`, `a.toml:1: database_url names a driver of SQLAlchemy, which has no effect`},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustParse(t, test.toml)
			if len(c.Warnings) != 1 || c.Warnings[0].String() != test.want {
				t.Errorf("got %q, want %q", c.Warnings, test.want)
			}
		})
	}
}
