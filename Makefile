# kappa: stream-fed materialized views for PostgreSQL
#
#   make                 build against the server of pg_config
#   make install         install into that server
#   make installcheck    run the tests against the installed extension
#   make lint format     check, or put right, the style of the sources
#
# WERROR=1 makes warnings errors, ASSERT=1 compiles the assertions, and
# KAPPA_TEST=1 the fault injection points that the tests use.  SANITIZE=1 is for
# test/run alone: the server needs libraries preloaded to load such a kappa.so.

EXTENSION = kappa
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" kappa.control)
DATA = kappa--1.0.sql

MODULE_big = kappa
OBJS = \
	src/aggregate.o \
	src/aggregate_call.o \
	src/aggregate_partial.o \
	src/aggregate_state.o \
	src/anchor.o \
	src/append.o \
	src/apply.o \
	src/ask.o \
	src/batch.o \
	src/blame.o \
	src/catalog.o \
	src/connection.o \
	src/deadletter.o \
	src/decode.o \
	src/decode_clock.o \
	src/decode_convert.o \
	src/decode_error.o \
	src/decode_json.o \
	src/decode_json_shape.o \
	src/decode_json_text.o \
	src/decode_metadata.o \
	src/decode_path.o \
	src/decode_scalar.o \
	src/decode_sql.o \
	src/definition.o \
	src/definition_functions.o \
	src/deliver.o \
	src/explain.o \
	src/fault.o \
	src/fdw.o \
	src/fdw_bounds.o \
	src/fdw_changelog.o \
	src/fdw_estimate.o \
	src/fdw_options.o \
	src/fdw_plan.o \
	src/fdw_properties.o \
	src/fdw_ranges.o \
	src/fdw_reader.o \
	src/fdw_scan.o \
	src/fdw_validator.o \
	src/fetch.o \
	src/fill.o \
	src/fill_batch.o \
	src/fill_begin.o \
	src/fill_run.o \
	src/fill_share.o \
	src/fill_step.o \
	src/guard.o \
	src/inspect.o \
	src/kafka_admin.o \
	src/kafka_client.o \
	src/kafka_config.o \
	src/kafka_error.o \
	src/kafka_kept.o \
	src/kafka_settings.o \
	src/kappa.o \
	src/key_length.o \
	src/keyed.o \
	src/launcher.o \
	src/letter_log.o \
	src/letter_retry.o \
	src/load.o \
	src/place.o \
	src/process.o \
	src/progress.o \
	src/rebuild.o \
	src/rebuild_columns.o \
	src/rebuild_commands.o \
	src/rebuild_diff.o \
	src/rebuild_log.o \
	src/rebuild_previous.o \
	src/rebuild_run.o \
	src/rebuild_switch.o \
	src/restore.o \
	src/shmem.o \
	src/shmem_process.o \
	src/shmem_view.o \
	src/shmem_wait.o \
	src/source.o \
	src/supervisor.o \
	src/swap.o \
	src/swap_index.o \
	src/trace.o \
	src/verify.o \
	src/verify_query.o \
	src/verify_value.o \
	src/version_history.o \
	src/view_aggregate.o \
	src/view_analyze.o \
	src/view_callees.o \
	src/view_commands.o \
	src/view_delta.o \
	src/view_expressions.o \
	src/view_fill.o \
	src/view_flatten.o \
	src/view_from.o \
	src/view_functions.o \
	src/view_merge.o \
	src/view_plan.o \
	src/view_refuse.o \
	src/view_start.o \
	src/view_states.o \
	src/view_text.o \
	src/waiters.o \
	src/worker.o

# Tests that read topics run when a mock broker is there; test/run starts one.
REGRESS = aggregate_builtin aggregate_misuse aggregate_state ddl decode_json decode_raw decode_types explain \
	flatten options refuse security
REGRESS_BROKER =
ISOLATION = create depend drop guard privileges
ISOLATION_BROKER = rebuild
ifneq ($(KAPPA_TEST_MOCK),)
REGRESS += $(REGRESS_BROKER)
ISOLATION += $(ISOLATION_BROKER)
endif
REGRESS_OPTS = --encoding=UTF8 --temp-instance=./tmp_check --temp-config=test/kappa.conf

ISOLATION_OPTS = --encoding=UTF8 --inputdir=test/isolation --temp-instance=./tmp_check_iso \
	--temp-config=test/kappa.conf

# TAP tests run when there is a Kafka; test/run brings one.
ifneq ($(KAPPA_TEST_BROKERS)$(KAPPA_TEST_KAFKA_LIB),)
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
endif

WARNINGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers $(if $(WERROR),-Werror)

PG_CPPFLAGS = -DKAPPA_VERSION='"$(EXTVERSION)"' \
	$(if $(ASSERT),-DUSE_ASSERT_CHECKING) $(if $(KAPPA_TEST),-DKAPPA_TEST) \
	$(shell pkg-config --cflags rdkafka)
PG_CFLAGS = $(WARNINGS) $(SANITIZER)
PG_CXXFLAGS = $(WARNINGS) $(SANITIZER) -Wno-register -std=c++17 -fno-exceptions -fno-rtti \
	-fvisibility=hidden -fvisibility-inlines-hidden -DSIMDJSON_EXCEPTIONS=0 \
	$(shell pkg-config --cflags simdjson)
SHLIB_LINK = $(shell pkg-config --libs rdkafka simdjson) -lstdc++

# Allocations go through test/sanitizer/preload.c, which sets zones behind them.
# Checked variants of memcpy() and the like would keep the sanitizer from
# looking.
ifneq ($(SANITIZE),)
SANITIZER = -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer -O1 -U_FORTIFY_SOURCE
SHLIB_LINK += -Wl,@$(CURDIR)/test/sanitizer/wrap
endif

EXTRA_CLEAN = test/broker/build portlock

# The module is not inlined into queries, and its C++ file has no bitcode rule.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

PROVE_FLAGS += -I $(CURDIR)/test

# PGXS knows no dependencies on headers; the tree is small enough for this.
$(OBJS): $(wildcard src/*.h) Makefile kappa.control

installcheck: not-as-root test-programs

# Better said here than in the log of initdb.
not-as-root:
	@[ "$$(id -u)" != 0 ] || { echo "make installcheck starts a server," \
		"which root may not: run it as another user, or use test/run" >&2; exit 1; }

# Programs of the tests, the demo and the benchmark: a client of Kafka, a mock
# broker, a shop, and what makes and measures load.
BUILD = test/broker/build
test-programs: $(BUILD)/kafka_tool $(BUILD)/mock_broker
demo-programs: $(BUILD)/demo_shop
bench-programs: $(BUILD)/produce $(BUILD)/raw_consume $(BUILD)/latency
$(BUILD)/latency: PROGRAM_LIBS = -I$(shell $(PG_CONFIG) --includedir) -lpq
$(BUILD)/%: test/broker/%.c
	$(build_program)
$(BUILD)/%: demo/%.c
	$(build_program)
$(BUILD)/%: bench/%.c
	$(build_program)
$(BUILD)/preload.so: test/sanitizer/preload.c
	@mkdir -p $(BUILD)
	$(CC) -g -O1 $(WARNINGS) -shared -fPIC -Wl,-z,initfirst -Wl,-z,lazy \
		-I$(shell $(PG_CONFIG) --includedir-server) -o $@ $<
define build_program
@mkdir -p $(BUILD)
$(CC) -g -O2 -D_GNU_SOURCE $(WARNINGS) -o $@ $< \
	$(shell pkg-config --cflags --libs rdkafka) $(PROGRAM_LIBS)
endef

lint:
	test/lint/run
format:
	clang-format-14 -i src/*.[ch] src/*.cpp test/*/*.c demo/*.c bench/*.c

.PHONY: not-as-root test-programs demo-programs bench-programs lint format
