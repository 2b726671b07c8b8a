/*-------------------------------------------------------------------------
 *
 * mock_broker.c
 *	  A Kafka cluster inside one small process, for tests and the demo
 *
 *	  mock_broker [-n BROKERS] [-s SOCKET]
 *	  mock_broker send COMMAND ...
 *
 * Runs librdkafka's own mock cluster, which any client may use over TCP.
 * Prints the brokers' addresses as one line, then obeys commands until
 * standard input ends: so it dies with whoever started it.
 *
 *	  topic NAME PARTITIONS      make a topic
 *	  topic-error NAME CODE      let a topic fail, 0 to end it
 *	  error API CODE COUNT       let the next requests of a kind fail, 0 to end it
 *	  rtt BROKER MILLISECONDS    slow a broker down
 *	  down BROKER, up BROKER     stop and start one
 *	  leader NAME PARTITION BROKER   move a partition to a broker; -1: to none
 *
 * Each is answered by "ok" or by what is wrong.  With -s, commands come over
 * a Unix socket as well; "send" does that, to the socket that
 * KAPPA_TEST_MOCK_CONTROL names, and prints nothing if all is well.
 *
 * The mock keeps some 5 MB per partition, and answers a fetch of an idle
 * partition only after the client's fetch.wait.max.ms.
 *
 * IDENTIFICATION
 *	  test/broker/mock_broker.c
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define MAX_LINE 1024

/*
 * From version 12 on the answer to a fetch names the new leader: newer librdkafkas
 * crash there if the partition has none.
 */
#define FETCH 1
#define FETCH_MAX_VERSION 11

static void
fail(const char *what)
{
	fprintf(stderr, "mock_broker: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Obey one command.  Returns NULL, or what is wrong with it. */
static const char *
obey(rd_kafka_mock_cluster_t *cluster, char *line)
{
	char name[MAX_LINE];
	int a;
	int b;
	int c;
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

	line[strcspn(line, "\r\n")] = '\0';
	if (sscanf(line, "topic %s %d", name, &a) == 2)
		err = rd_kafka_mock_topic_create(cluster, name, a, 1);
	else if (sscanf(line, "topic-error %s %d", name, &a) == 2)
		rd_kafka_mock_topic_set_error(cluster, name, a);
	else if (sscanf(line, "error %d %d %d", &a, &b, &c) == 3)
	{
		if (c == 0)
			rd_kafka_mock_clear_request_errors(cluster, a);
		while (c-- > 0)
			rd_kafka_mock_push_request_errors(cluster, a, 1, b);
	}
	else if (sscanf(line, "rtt %d %d", &a, &b) == 2)
		err = rd_kafka_mock_broker_set_rtt(cluster, a, b);
	else if (sscanf(line, "leader %s %d %d", name, &a, &b) == 3)
		err = rd_kafka_mock_partition_set_leader(cluster, name, a, b);
	else if (sscanf(line, "down %d", &a) == 1)
		err = rd_kafka_mock_broker_set_down(cluster, a);
	else if (sscanf(line, "up %d", &a) == 1)
		err = rd_kafka_mock_broker_set_up(cluster, a);
	else
		return "unknown command";
	return err ? rd_kafka_err2str(err) : NULL;
}

static void
answer(int fd, const char *error)
{
	dprintf(fd, "%s\n", error ? error : "ok");
}

static int
open_socket(const char *path, bool server)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	if (strlen(path) >= sizeof(address.sun_path))
	{
		errno = ENAMETOOLONG;
		fail(path);
	}
	strcpy(address.sun_path, path);
	if (!server)
	{
		if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
			fail(path);
		return fd;
	}
	unlink(path);
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
		listen(fd, 5) < 0)
		fail(path);
	return fd;
}

/*
 * One command per connection, sent by one write, keeps this simple; tests
 * send few.
 */
static void
serve_connection(rd_kafka_mock_cluster_t *cluster, int listener)
{
	char line[MAX_LINE];
	int fd = accept(listener, NULL, NULL);
	ssize_t len;

	if (fd < 0)
		return;
	len = read(fd, line, sizeof(line) - 1);
	if (len > 0)
	{
		line[len] = '\0';
		answer(fd, obey(cluster, line));
	}
	close(fd);
}

static int
send_command(int argc, char **argv)
{
	const char *path = getenv("KAPPA_TEST_MOCK_CONTROL");
	char line[MAX_LINE] = "";
	size_t used = 0;
	ssize_t len;
	int fd;

	if (path == NULL)
	{
		fprintf(stderr, "mock_broker: KAPPA_TEST_MOCK_CONTROL is not set\n");
		return 2;
	}
	for (int i = 0; i < argc && used < sizeof(line); i++)
		used += snprintf(line + used, sizeof(line) - used, "%s%c", argv[i],
						 i + 1 < argc ? ' ' : '\n');
	fd = open_socket(path, false);
	if (write(fd, line, strlen(line)) < 0)
		fail("write");
	len = read(fd, line, sizeof(line) - 1);
	if (len > 0 && strncmp(line, "ok\n", len) == 0)
		return 0;
	fprintf(stderr, "mock_broker: %.*s\n", len > 0 ? (int) len - 1 : 9,
			len > 0 ? line : "no answer");
	return 1;
}

static void
run(rd_kafka_mock_cluster_t *cluster, int listener)
{
	char line[MAX_LINE];
	struct pollfd fds[2] = { { .fd = STDIN_FILENO, .events = POLLIN },
							 { .fd = listener, .events = POLLIN } };

	/* Lines are read one at a time, so none may wait in stdio's buffer. */
	setvbuf(stdin, NULL, _IONBF, 0);
	for (;;)
	{
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			fail("poll");
		if (fds[1].revents & POLLIN)
			serve_connection(cluster, listener);
		if (fds[0].revents & (POLLIN | POLLHUP))
		{
			if (fgets(line, sizeof(line), stdin) == NULL)
				return;
			answer(STDOUT_FILENO, obey(cluster, line));
		}
	}
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_mock_cluster_t *cluster;
	rd_kafka_t *handle;
	char message[512];
	const char *path = NULL;
	int brokers = 1;
	int listener = -1;
	int option;

	if (argc > 1 && strcmp(argv[1], "send") == 0)
		return send_command(argc - 2, argv + 2);
	while ((option = getopt(argc, argv, "n:s:")) != -1)
	{
		if (option == 'n')
			brokers = atoi(optarg);
		else if (option == 's')
			path = optarg;
		else
			return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	rd_kafka_conf_set(conf, "log_level", "3", message, sizeof(message));
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, message, sizeof(message));
	if (handle == NULL)
	{
		fprintf(stderr, "mock_broker: %s\n", message);
		return 1;
	}
	cluster = rd_kafka_mock_cluster_new(handle, brokers);
	if (cluster == NULL)
		fail("mock cluster");
	if (rd_kafka_mock_set_apiversion(cluster, FETCH, 0, FETCH_MAX_VERSION) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		fail("version of Fetch");
	if (path)
		listener = open_socket(path, true);
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	run(cluster, listener);
	if (path)
		unlink(path);
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(handle);
	return 0;
}
