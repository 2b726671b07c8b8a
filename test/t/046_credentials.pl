
# Logging in to a Kafka that asks for it: passwords and certificates, right,
# wrong, and changed while a view runs; and where secrets are not to be seen.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka(private => 1, secure => 1);
my $node = new_node(conf => "log_min_messages = debug1\nkappa.max_workers = 2\nkappa.retry_max_delay = 1s\n");
my $ca = $kafka->certificate('ca.pem');
my @secrets = qw(plain-secret scram-secret second-secret wrong-secret key-secret);

sub sql { return $node->safe_psql('postgres', @_); }

# Statements with a secret, which the settings of the test would log.
sub silently { return sql("SET log_statement = 'none'; $_[0]"); }

sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $state, $sqlstate, $name) = @_;
	return ok(
		wait_for($node,
			"SELECT state || ' ' || coalesce(sqlstate, '') FROM kappa.views WHERE view = '$view'::regclass", "$state $sqlstate"),
		"$name: $state $sqlstate");
}

# A server over one of Kafka's listeners, with a foreign table of that name.
sub make_server
{
	my ($name, $listener, $options) = @_;
	my $address = $listener =~ /:/ ? $listener : $kafka->listener($listener);

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$address', $options);
		GRANT USAGE ON FOREIGN SERVER $name TO PUBLIC;
		CREATE FOREIGN TABLE $name (n bigint) SERVER $name OPTIONS (topic 'safe'); GRANT SELECT ON $name TO PUBLIC");
	return;
}

# A test: reading a foreign table fails.
sub no_entry
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($table, $pattern, $name, $role) = @_;
	my $as = defined $role ? "SET ROLE $role;" : '';
	return fails_like($node, "$as \\set VERBOSITY verbose\nSELECT count(*) FROM $table", $pattern, $name);
}

create_topic('safe', partitions => 1);
my $sent = 0;

sub send_more
{
	produce('safe', [ map { { value => { n => $sent + $_ } } } 1 .. 10 ]);
	$sent += 10;
	return;
}
send_more();
$kafka->set_scram_password('app', 'scram-secret');

# Older ones repeat their nonce, which newer brokers do not take.
my ($major, $minor, $patch) = `pkg-config --modversion rdkafka` =~ /^(\d+)\.(\d+)\.(\d+)/;
my $scram = $major * 10000 + $minor * 100 + $patch >= 20601;

# ---- Each way in. ----

make_server('plain', 'sasl_plaintext', "security_protocol 'sasl_plaintext', sasl_mechanism 'PLAIN'");
make_server('scram', 'sasl_plaintext', "security_protocol 'sasl_plaintext', sasl_mechanism 'SCRAM-SHA-512'");
make_server('scram_tls', 'sasl_ssl', "security_protocol 'sasl_ssl', sasl_mechanism 'SCRAM-SHA-512', ssl_ca_pem '$ca'");
make_server('certified', 'ssl', "security_protocol 'ssl', ssl_ca_pem '$ca'");
make_server('plain_tls', 'sasl_ssl', "security_protocol 'sasl_ssl', sasl_mechanism 'PLAIN', ssl_ca_pem '$ca'");
silently("CREATE USER MAPPING FOR postgres SERVER $_ OPTIONS (sasl_username 'plain_user', sasl_password 'plain-secret')") for qw(plain plain_tls);
silently("CREATE USER MAPPING FOR postgres SERVER $_ OPTIONS (sasl_username 'app', sasl_password 'scram-secret')") for qw(scram scram_tls);
silently("CREATE USER MAPPING FOR postgres SERVER certified OPTIONS (ssl_certificate_pem '"
	  . $kafka->certificate('client.pem') . "', ssl_key_pem '" . $kafka->certificate('client.key') . "')");
my @ways = (qw(plain plain_tls certified), $scram ? qw(scram scram_tls) : ());
for my $way (@ways)
{
	sql("SELECT kappa.create_view('by_$way', 'SELECT count(*) AS c, sum(n) AS s FROM $way')");
	ok_view($node, "by_$way");
}

# ---- Each way not in. ----

sql('CREATE ROLE guest; CREATE ROLE mallory; GRANT CREATE ON SCHEMA public TO guest');
no_entry('plain', qr/user mapping not found/, 'no mapping of one\'s own', 'guest');
silently("CREATE USER MAPPING FOR guest SERVER plain OPTIONS (sasl_username 'plain_user', sasl_password 'wrong-secret');
	CREATE USER MAPPING FOR guest SERVER scram OPTIONS (sasl_username 'app', sasl_password 'wrong-secret')");
no_entry($_, qr/28000:.*HINT:  Check the user name and password/s, "a wrong password by $_", 'guest') for qw(plain scram);
no_entry('certified', qr/0800[16]:/, 'no certificate of one\'s own', 'guest');
silently("CREATE USER MAPPING FOR guest SERVER certified OPTIONS (ssl_certificate_pem '"
	  . $kafka->certificate('stranger.pem') . "', ssl_key_pem '" . $kafka->certificate('stranger.key') . "')");
no_entry('certified', qr/0800[16]:/, 'a certificate of another authority', 'guest');
my ($port) = $kafka->listener('sasl_ssl') =~ /:(\d+)/;
my $mechanism = "security_protocol 'sasl_ssl', sasl_mechanism 'PLAIN'";
make_server('other_ca', 'sasl_ssl', "$mechanism, ssl_ca_pem '" . $kafka->certificate('other.pem') . q('));
make_server('other_name', "localhost:$port", "$mechanism, ssl_ca_pem '$ca', broker_address_family 'v4'");
make_server('expired', 'expired', "security_protocol 'ssl', ssl_ca_pem '$ca'");
silently("CREATE USER MAPPING FOR postgres SERVER $_ OPTIONS (sasl_username 'plain_user', sasl_password 'plain-secret')") for qw(other_ca other_name);
no_entry('other_ca', qr/08001:.*certificate verify failed/s, 'a broker whose certificate another authority has signed');
no_entry('other_name', qr/08001:.*certificate verify failed/s, 'a broker with another name');
no_entry('expired', qr/08001:.*certificate verify failed/s, 'a broker with a certificate that has expired');
fails_like($node, "SELECT kappa.create_view('x', 'SELECT n FROM expired', 'latest')", qr/librdkafka reported _SSL/, 'nor does a view start there');

# ---- Views of several owners in one process: to each his own. ----

sql(q(SET ROLE guest; SELECT kappa.create_view('of_guest', 'SELECT count(*) AS c FROM plain')));
state_becomes('of_guest', 'retrying', '28000', 'a view of an owner with a wrong password');
send_more();
ok_view($node, "by_$_", name => "by_$_ is not disturbed") for @ways;
silently("ALTER USER MAPPING FOR guest SERVER plain OPTIONS (SET sasl_password 'plain-secret')");
ok(wait_for($node, 'SELECT c FROM of_guest', $sent), 'once the mapping is right, the view runs');
sql('ALTER TABLE of_guest OWNER TO postgres; DROP USER MAPPING FOR guest SERVER plain');
send_more();
ok(wait_for($node, 'SELECT c FROM of_guest', $sent), q(given to another owner, it uses that one's));
sql('ALTER TABLE of_guest OWNER TO guest');
send_more();
state_becomes('of_guest', 'retrying', '42704', 'an owner without a mapping');
silently("CREATE USER MAPPING FOR guest SERVER plain OPTIONS (sasl_username 'plain_user', sasl_password 'plain-secret')");
ok(wait_for($node, 'SELECT c FROM of_guest', $sent), 'who gets one');
sql('DROP OWNED BY guest');
is(sql(q(SELECT to_regclass('of_guest') IS NULL)), 't', 'DROP OWNED drops the view');

# ---- Credentials that change while views run. ----

sql('DROP USER MAPPING FOR postgres SERVER plain_tls');
state_becomes('by_plain_tls', 'retrying', '42704', 'the mapping is dropped');
silently("CREATE USER MAPPING FOR postgres SERVER plain_tls OPTIONS (sasl_username 'plain_user', sasl_password 'plain-secret')");
ok_view($node, 'by_plain_tls', name => 'and made again');
SKIP:
{
	skip 'this librdkafka does not know SCRAM as Kafka does', 4 unless $scram;
	$kafka->set_scram_password('app', 'second-secret');
	send_more();
	state_becomes('by_scram', 'retrying', '28000', 'the password is another one by now');
	silently("ALTER USER MAPPING FOR postgres SERVER scram OPTIONS (SET sasl_password 'second-secret')");
	ok_view($node, 'by_scram', name => 'the mapping follows');
	$kafka->set_scram_password('app', undef);
	state_becomes('by_scram', 'retrying', '28000', 'the user is gone');
	$kafka->set_scram_password('app', 'second-secret');
	ok_view($node, 'by_scram', name => 'and is back');
}
$kafka->stop;
$kafka->replace_setting('plain-secret', 'second-secret');
$kafka->start;
send_more();
state_becomes("by_$_", 'retrying', '28000', 'the brokers have another password') for qw(plain plain_tls);
ok_view($node, 'by_certified', name => 'a certificate is as good as before');
silently("ALTER USER MAPPING FOR postgres SERVER $_ OPTIONS (SET sasl_password 'second-secret')") for qw(plain plain_tls);
ok_view($node, "by_$_", name => 'the mapping follows') for qw(plain plain_tls);

# ---- Secrets are nowhere. ----

for my $bad ("ssl_key_pem 'key-secret'", "ssl_certificate_pem 'key-secret', ssl_key_pem 'key-secret'",
	"ssl_key_pem '-----BEGIN PRIVATE KEY----- key-secret', ssl_key_password 'key-secret'")
{
	my ($out, $err) = ('', '');
	$node->psql('postgres', "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; DROP USER MAPPING IF EXISTS FOR guest SERVER certified;
		CREATE USER MAPPING FOR guest SERVER certified OPTIONS ($bad); SET ROLE guest; SELECT count(*) FROM certified",
		stderr => \$err, on_error_stop => 0);
	like($err, qr/ERROR/, 'a key that is none is refused');
	unlike($err, qr/key-secret/, 'without being repeated');
}
my $seen = sql(q(SELECT v::text FROM kappa.views v UNION ALL SELECT e::text FROM kappa.events e
	UNION ALL SELECT e FROM kappa.explain('by_plain') e UNION ALL SELECT a::text FROM pg_stat_activity a WHERE pid <> pg_backend_pid()));
my $log = slurp_file($node->logfile);
my $pid = (kappa_pids($node, 'kappa worker'))[0];
my $environment = slurp_file("/proc/$pid/environ") . slurp_file("/proc/$pid/cmdline");
for my $secret (@secrets, $kafka->certificate('client.key') =~ /^(MI\S+)$/m)
{
	unlike($seen, qr/\Q$secret\E/, 'a secret is not in what SQL shows');
	unlike($log, qr/\Q$secret\E/, 'nor in the log');
	unlike($environment, qr/\Q$secret\E/, 'nor in the environment of a process');
}
like($log, qr/librdkafka: /, 'the log has the lines of librdkafka');
is(sql(q(SET ROLE mallory; SELECT count(*), count(umoptions) FROM pg_user_mappings)), '8|0', 'mappings of others have no options');
fails_like($node, 'SET ROLE mallory; SELECT umoptions FROM pg_user_mapping', qr/permission denied/, 'nor has the catalog');

$node->stop('fast');
done_testing();
