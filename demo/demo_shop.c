/*-------------------------------------------------------------------------
 *
 * demo_shop.c
 *	  A shop whose visitors click, sign up, move, leave and buy
 *
 *	  demo_shop BROKERS PREFIX HISTORY RATE LIMIT
 *
 * Writes to the topics PREFIXclicks (events), PREFIXusers (a changelog, keyed
 * by user, with tombstones) and PREFIXorders (events): first HISTORY messages
 * of the past day, as fast as it goes, then RATE messages a second until
 * standard input ends, or until LIMIT messages in all.  Prints "history" when
 * the history is in the log.  The same numbers come at each run; only the
 * times differ.
 *
 * IDENTIFICATION
 *	  demo/demo_shop.c
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#define USERS 2000
#define DAY_MS (24 * 3600 * INT64_C(1000))
#define TICK_MS 20
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Shop
{
	rd_kafka_t *producer;
	const char *prefix;
	int64_t messages; /* sent so far */
	int64_t orders;
	uint64_t random;       /* state of the generator */
	bool signed_up[USERS]; /* a message with a value was the last one */
	int visits[USERS];     /* to have regulars among the visitors */
} Shop;

static const char *const pages[] = {
	"/",
	"/search",
	"/cart",
	"/help",
	"/tea/assam",
	"/tea/ceylon",
	"/tea/darjeeling",
	"/tea/genmaicha",
	"/tea/oolong",
	"/coffee/huila",
	"/coffee/sidamo",
	"/coffee/yirgacheffe",
	"/pots/cast-iron",
	"/pots/glass",
};
static const char *const first_names[] = {
	"Ada",
	"Alan",
	"Barbara",
	"Dennis",
	"Edsger",
	"Frances",
	"Grace",
	"Jim",
	"Ken",
	"Leslie",
	"Margaret",
	"Mary",
	"Michael",
	"Niklaus",
	"Radia",
	"Tony",
};
static const char *const countries[] = {
	"DE",
	"DE",
	"DE",
	"FR",
	"FR",
	"GB",
	"GB",
	"IT",
	"JP",
	"NL",
	"PL",
	"US",
};
static const struct
{
	const char *sku;
	int cents;
} goods[] = {
	{ "assam", 690 },
	{ "ceylon", 590 },
	{ "darjeeling", 1290 },
	{ "genmaicha", 840 },
	{ "oolong", 1450 },
	{ "huila", 1190 },
	{ "sidamo", 1090 },
	{ "pot-iron", 5900 },
	{ "pot-glass", 2450 },
};

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "demo_shop: %s: %s\n", what, why);
	exit(1);
}

static int64_t
now_ms(void)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	return now.tv_sec * INT64_C(1000) + now.tv_usec / 1000;
}

/* A random number below the limit: splitmix64. */
static int
draw(Shop *shop, int limit)
{
	uint64_t z = (shop->random += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return (int) (z % (uint64_t) limit);
}

/*
 * The microseconds are a running number: two events at the same time would
 * leave it open which of them is the last.
 */
static void
format_time(const Shop *shop, char *buffer, size_t size, int64_t ms)
{
	time_t seconds = ms / 1000;
	struct tm parts;
	char text[32];

	gmtime_r(&seconds, &parts);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(buffer, size, "%s.%03d%03dZ", text, (int) (ms % 1000),
			 (int) (shop->messages % 1000));
}

/* Send a message; one without value is a tombstone. */
static void
send_message(Shop *shop, const char *topic, const char *key, const char *value,
			 int64_t at)
{
	char name[256];
	rd_kafka_resp_err_t err;

	snprintf(name, sizeof(name), "%s%s", shop->prefix, topic);
	while ((err = rd_kafka_producev(
				shop->producer, RD_KAFKA_V_TOPIC(name),
				RD_KAFKA_V_KEY(key, key ? strlen(key) : 0),
				RD_KAFKA_V_VALUE((void *) value, value ? strlen(value) : 0),
				RD_KAFKA_V_TIMESTAMP(at),
				RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END)) ==
		   RD_KAFKA_RESP_ERR__QUEUE_FULL)
		rd_kafka_poll(shop->producer, 50);
	if (err)
		fail(name, rd_kafka_err2str(err));
	shop->messages++;
}

/* Regulars come more often: of three who might, the most frequent one does. */
static int
draw_visitor(Shop *shop)
{
	int visitor = draw(shop, USERS);

	for (int i = 0; i < 2; i++)
	{
		int other = draw(shop, USERS);

		if (shop->visits[other] > shop->visits[visitor])
			visitor = other;
	}
	shop->visits[visitor]++;
	return visitor;
}

static void
play_click(Shop *shop, int64_t at)
{
	char when[64];
	char value[512];
	int country = draw(shop, lengthof(countries));
	int page = draw(shop, 3) == 0 ? draw(shop, 4) : draw(shop, lengthof(pages));

	format_time(shop, when, sizeof(when), at);
	snprintf(value, sizeof(value),
			 "{\"user_id\":%d,\"page\":\"%s\",\"geo\":{\"country\":\"%s\"},"
			 "\"at\":\"%s\"}",
			 draw_visitor(shop), pages[page], countries[country], when);
	send_message(shop, "clicks", NULL, value, at);
}

/* Somebody signs up, moves to another country, or closes the account. */
static void
play_user(Shop *shop, int64_t at)
{
	char key[32];
	char value[256];
	int user = draw(shop, USERS);

	snprintf(key, sizeof(key), "%d", user);
	if (shop->signed_up[user] && draw(shop, 4) == 0)
	{
		shop->signed_up[user] = false;
		send_message(shop, "users", key, NULL, at);
		return;
	}
	shop->signed_up[user] = true;
	snprintf(value, sizeof(value), "{\"name\":\"%s %c.\",\"country\":\"%s\"}",
			 first_names[user % lengthof(first_names)], 'A' + user % 26,
			 countries[draw(shop, lengthof(countries))]);
	send_message(shop, "users", key, value, at);
}

static void
play_order(Shop *shop, int64_t at)
{
	char when[64];
	char items[512] = "";
	char value[1024];
	int n = 1 + draw(shop, 3);

	for (int i = 0; i < n; i++)
	{
		int good = draw(shop, lengthof(goods));
		size_t used = strlen(items);

		snprintf(items + used, sizeof(items) - used,
				 "%s{\"sku\":\"%s\",\"n\":%d,\"price\":%d.%02d}", i ? "," : "",
				 goods[good].sku, 1 + draw(shop, 4), goods[good].cents / 100,
				 goods[good].cents % 100);
	}
	format_time(shop, when, sizeof(when), at);
	snprintf(value, sizeof(value),
			 "{\"order_id\":%" PRId64 ",\"user_id\":%d,\"country\":\"%s\","
			 "\"at\":\"%s\",\"items\":[%s]}",
			 ++shop->orders, draw_visitor(shop),
			 countries[draw(shop, lengthof(countries))], when, items);
	send_message(shop, "orders", NULL, value, at);
}

static void
play(Shop *shop, int64_t at)
{
	int what = draw(shop, 100);

	if (what < 90)
		play_click(shop, at);
	else if (what < 95)
		play_user(shop, at);
	else
		play_order(shop, at);
}

static void
play_history(Shop *shop, int64_t count)
{
	int64_t start = now_ms() - DAY_MS;

	for (int64_t i = 0; i < count; i++)
	{
		play(shop, start + DAY_MS * i / count);
		if (i % 1000 == 0)
			rd_kafka_poll(shop->producer, 0);
	}
	rd_kafka_flush(shop->producer, 30000);
	printf("history\n");
	fflush(stdout);
}

/* Play on in small steps; the wait between them is for the input's end. */
static void
play_live(Shop *shop, double rate, int64_t limit)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	int64_t started = now_ms();
	int64_t played = 0;
	char ignored[256];

	for (;;)
	{
		if (poll(&input, 1, TICK_MS) > 0 &&
			read(STDIN_FILENO, ignored, sizeof(ignored)) <= 0)
			return;
		while (shop->messages < limit &&
			   played < (now_ms() - started) * rate / 1000)
		{
			play(shop, now_ms());
			played++;
		}
		rd_kafka_poll(shop->producer, 0);
	}
}

int
main(int argc, char **argv)
{
	static Shop shop = { .random = 1 };
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char message[512];

	if (argc != 6)
		fail("usage", "demo_shop BROKERS PREFIX HISTORY RATE LIMIT");
	if (rd_kafka_conf_set(conf, "bootstrap.servers", argv[1], message,
						  sizeof(message)) ||
		rd_kafka_conf_set(conf, "linger.ms", "5", message, sizeof(message)) ||
		rd_kafka_conf_set(conf, "partitioner", "consistent_random", message,
						  sizeof(message)) ||
		rd_kafka_conf_set(conf, "sticky.partitioning.linger.ms", "0", message,
						  sizeof(message)))
		fail("configuration", message);
	shop.prefix = argv[2];
	shop.producer =
		rd_kafka_new(RD_KAFKA_PRODUCER, conf, message, sizeof(message));
	if (shop.producer == NULL)
		fail("producer", message);
	play_history(&shop, atoll(argv[3]));
	play_live(&shop, atof(argv[4]), atoll(argv[5]));
	rd_kafka_flush(shop.producer, 10000);
	rd_kafka_destroy(shop.producer);
	return 0;
}
