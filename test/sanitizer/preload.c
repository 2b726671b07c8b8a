/*-------------------------------------------------------------------------
 *
 * preload.c
 *	  What AddressSanitizer needs to find errors in palloc'd memory
 *
 * The server is the packaged one and knows nothing of sanitizers: to them its
 * memory contexts are a few large pieces.  So kappa is linked with --wrap (see
 * SANITIZE in the Makefile), its allocations come here, and get a forbidden
 * zone behind them until they are freed or their context is reset.
 *
 * What the server allocates for kappa has no such zone, and a chunk of kappa's
 * that the server frees keeps it until the context is reset.
 *
 * This library is preloaded into the server after AddressSanitizer itself,
 * which it also starts: before the constructors of other libraries, one of
 * which holds a lock that the start takes, too.
 *
 * IDENTIFICATION
 *	  test/sanitizer/preload.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sanitizer/asan_interface.h>

#include "utils/memutils.h"

extern void __asan_init(void);

#define ZONE 16
#define NBUCKETS 1024

/* An allocation that has a zone. */
typedef struct Guard
{
	struct Guard *next;
	char *start;
	Size size;
} Guard;

/* The allocations of a context. */
typedef struct Guarded
{
	struct Guarded *next; /* in the same bucket */
	MemoryContext context;
	MemoryContextCallback on_reset;
	Guard *guards;
} Guarded;

static Guarded *buckets[NBUCKETS];

static __attribute__((constructor)) void
start_sanitizer(int argc, char **argv, char **environment)
{
	__asan_init();

	/* Programs that the server runs are none of our business. */
	for (char **to = environment; *environment != NULL; *to = *++environment)
		if (strncmp(*environment, "LD_PRELOAD=", 11) != 0)
			to++;
}

static Guarded **
find_bucket(MemoryContext context)
{
	return &buckets[((uintptr_t) context >> 5) % NBUCKETS];
}

static void
forget_context(void *arg)
{
	Guarded *guarded = arg;
	Guarded **link = find_bucket(guarded->context);
	Guard *next;

	for (Guard *guard = guarded->guards; guard != NULL; guard = next)
	{
		next = guard->next;
		__asan_unpoison_memory_region(guard->start, guard->size + ZONE);
		free(guard);
	}
	while (*link != guarded)
		link = &(*link)->next;
	*link = guarded->next;
	free(guarded);
}

static Guarded *
find_context(MemoryContext context)
{
	Guarded **bucket = find_bucket(context);
	Guarded *guarded;

	for (guarded = *bucket; guarded != NULL; guarded = guarded->next)
		if (guarded->context == context)
			return guarded;

	guarded = calloc(1, sizeof(Guarded));
	guarded->context = context;
	guarded->next = *bucket;
	*bucket = guarded;
	guarded->on_reset.func = forget_context;
	guarded->on_reset.arg = guarded;
	MemoryContextRegisterResetCallback(context, &guarded->on_reset);
	return guarded;
}

/* Put a zone behind a new chunk that has room for it. */
static void *
guard_chunk(void *chunk, Size size, MemoryContext context)
{
	Guarded *guarded;
	Guard *guard;

	if (chunk == NULL)
		return NULL;
	guarded = find_context(context);
	guard = malloc(sizeof(Guard));
	guard->start = chunk;
	guard->size = size;
	guard->next = guarded->guards;
	guarded->guards = guard;
	__asan_unpoison_memory_region(chunk, size);
	__asan_poison_memory_region((char *) chunk + size, ZONE);
	return chunk;
}

/*
 * Take the zone of a chunk away, if it has one.  Its context still lists it,
 * which does no harm: at worst a zone is taken away early.
 */
static void
unguard_chunk(void *chunk)
{
	__asan_unpoison_memory_region(chunk, GetMemoryChunkSpace(chunk) - sizeof(void *));
}

/* ---- what kappa calls in place of the server's functions ---- */

extern void *__wrap_MemoryContextAllocExtended(MemoryContext context, Size size, int flags);
extern void *__wrap_MemoryContextAlloc(MemoryContext context, Size size);
extern void *__wrap_MemoryContextAllocZero(MemoryContext context, Size size);
extern void *__wrap_MemoryContextAllocZeroAligned(MemoryContext context, Size size);
extern void *__wrap_MemoryContextAllocHuge(MemoryContext context, Size size);
extern void *__wrap_palloc(Size size);
extern void *__wrap_palloc0(Size size);
extern void *__wrap_palloc_extended(Size size, int flags);
extern void *__wrap_repalloc(void *pointer, Size size);
extern void *__wrap_repalloc_huge(void *pointer, Size size);
extern void __wrap_pfree(void *pointer);

void *
__wrap_MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return guard_chunk(MemoryContextAllocExtended(context, size + ZONE, flags), size, context);
}

void *
__wrap_MemoryContextAlloc(MemoryContext context, Size size)
{
	return guard_chunk(MemoryContextAlloc(context, size + ZONE), size, context);
}

void *
__wrap_MemoryContextAllocZero(MemoryContext context, Size size)
{
	return guard_chunk(MemoryContextAllocZero(context, size + ZONE), size, context);
}

void *
__wrap_MemoryContextAllocZeroAligned(MemoryContext context, Size size)
{
	return __wrap_MemoryContextAllocZero(context, size);
}

void *
__wrap_palloc(Size size)
{
	return __wrap_MemoryContextAlloc(CurrentMemoryContext, size);
}

void *
__wrap_palloc0(Size size)
{
	return __wrap_MemoryContextAllocZero(CurrentMemoryContext, size);
}

void *
__wrap_palloc_extended(Size size, int flags)
{
	return __wrap_MemoryContextAllocExtended(CurrentMemoryContext, size, flags);
}

void *
__wrap_repalloc(void *pointer, Size size)
{
	MemoryContext context = GetMemoryChunkContext(pointer);

	unguard_chunk(pointer);
	return guard_chunk(repalloc(pointer, size + ZONE), size, context);
}

void
__wrap_pfree(void *pointer)
{
	unguard_chunk(pointer);
	pfree(pointer);
}

void *
__wrap_MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return guard_chunk(MemoryContextAllocHuge(context, size + ZONE), size, context);
}

void *
__wrap_repalloc_huge(void *pointer, Size size)
{
	MemoryContext context = GetMemoryChunkContext(pointer);

	unguard_chunk(pointer);
	return guard_chunk(repalloc_huge(pointer, size + ZONE), size, context);
}
