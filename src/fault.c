/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Points at which tests let something fail
 *
 * IDENTIFICATION
 *	  src/fault.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault.h"

#ifdef KAPPA_TEST

#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

/* In the data directory, where every process of the server is. */
#define FAULT_DIRECTORY "kappa_fault"

/* Between two looks at whether a process that hangs may go on. */
#define HANG_INTERVAL_MS 20

typedef struct Fault
{
	char path[MAXPGPATH];
	char hit_path[MAXPGPATH];
	char action[16];
	int nth;
} Fault;

/* What is armed for a point, and a view if that is given; false if nothing is. */
static bool
find_fault(Fault *fault, const char *point, Oid view)
{
	FILE *file;
	int n;

	if (OidIsValid(view))
		snprintf(fault->path, MAXPGPATH, FAULT_DIRECTORY "/%s.%u", point, view);
	else
		snprintf(fault->path, MAXPGPATH, FAULT_DIRECTORY "/%s", point);
	strlcpy(fault->hit_path, fault->path, MAXPGPATH);
	strlcat(fault->hit_path, ".hit", MAXPGPATH);

	file = AllocateFile(fault->path, "r");
	if (file == NULL)
		return false;
	fault->nth = 1;
	n = fscanf(file, "%15s %d", fault->action, &fault->nth);
	FreeFile(file);
	return n >= 1;
}

/* True when this process has come here as often as it should. */
static bool
is_due(const Fault *fault)
{
	static char last[MAXPGPATH];
	static int visits = 0;

	if (strcmp(last, fault->path) != 0)
		visits = 0;
	strlcpy(last, fault->path, MAXPGPATH);
	if (++visits < fault->nth)
		return false;
	visits = 0;
	return true;
}

static void
hang(const Fault *fault)
{
	bool woken = false;

	while (access(fault->hit_path, F_OK) == 0)
	{
		int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   HANG_INTERVAL_MS, PG_WAIT_EXTENSION);

		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			woken = true;
		}
		CHECK_FOR_INTERRUPTS();
	}

	/* Whoever wanted something of this process meanwhile shall not have been overheard. */
	if (woken)
		SetLatch(MyLatch);
}

static void
act(const Fault *fault)
{
	bool disk_full = strcmp(fault->action, "disk-full") == 0;

	elog(LOG, "%s: %s", fault->path, fault->action);
	if (strcmp(fault->action, "exit") == 0)
		_exit(2);
	if (strcmp(fault->action, "hang") == 0)
		hang(fault);
	else
		ereport(ERROR,
				(errcode(disk_full ? ERRCODE_DISK_FULL : ERRCODE_INTERNAL_ERROR),
				 errmsg("fault \"%s\"", fault->path)));
}

void
kappa_fault_reach(const char *point, Oid view)
{
	Fault fault;

	if (!find_fault(&fault, point, view) && !find_fault(&fault, point, InvalidOid))
		return;

	/* Another process may be faster. */
	if (is_due(&fault) && rename(fault.path, fault.hit_path) == 0)
		act(&fault);
}

#endif
