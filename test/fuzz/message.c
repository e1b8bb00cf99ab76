/*
 * message.c
 *		Fuzz what a follower reads from its leader, and a sender from its follower: the
 *		input is one message.
 */
#include "postgres.h"

#include "log/change.h"
#include "log/log.h"
#include "wire/message.h"

#include "shim.h"

static RelationDesc *described[16];
static int	described_count;

static const RelationDesc *
lookup(void *arg, Oid relid)
{
	for (int i = 0; i < described_count; i++)
	{
		if (described[i]->relid == relid)
			return described[i];
	}
	return NULL;
}

/* Touch what the applier would. */
static void
use_row(const RelationDesc *desc, const ColumnValue *row)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (row[i].kind != VALUE_PRESENT)
			continue;
		for (uint32 at = 0; at < row[i].len; at++)
			(void) ((const volatile char *) row[i].data)[at];
		if (desc->columns[i].form == COLUMN_FIXED && row[i].len == 8)
			column_fixed_check(desc->columns[i].typid, row[i].data);
	}
}

static void
read_changes(const Frame *frame)
{
	const char *pos = frame->payload;
	const char *end = pos + frame->len;
	Change		change = {0};

	while (pos < end)
	{
		const RelationDesc *desc;

		change_decode(&pos, end, lookup, NULL, &change);
		if (change.op != CHANGE_INSERT && change.op != CHANGE_UPDATE && change.op != CHANGE_DELETE)
			continue;
		desc = lookup(NULL, change.relid);
		if (desc == NULL)
			continue;
		if (change.op != CHANGE_INSERT && change.oldkind != OLD_NONE)
			use_row(desc, change.oldrow);
		if (change.op != CHANGE_DELETE)
			use_row(desc, change.newrow);
	}
}

static void
read_frames(const char *data, Size len)
{
	Frame		frame;
	Size		size;

	while (len > 0 && (size = frame_parse(data, len, &frame)) > 0)
	{
		if (frame.type == FRAME_RELATION && described_count < lengthof(described))
			described[described_count++] = relation_desc_decode(frame.payload, frame.len);
		else if (frame.type == FRAME_CHANGES)
			read_changes(&frame);
		data += size;
		len -= size;
	}
}

static void
read_message(const uint8_t *data, size_t size)
{
	const char *body = (const char *) data + 1;
	ProgressMessage progress;
	AnswerMessage answer;
	QuestionMessage question;
	StatusMessage status;

	described_count = 0;
	switch (size > 0 ? data[0] : 0)
	{
		case MSG_FRAMES:
			read_frames(body, size - 1);
			break;
		case MSG_PROGRESS:
			message_get_progress(body, size - 1, &progress);
			break;
		case MSG_ANSWER:
			message_get_answer(body, size - 1, &answer);
			break;
		case MSG_QUESTION:
			message_get_question(body, size - 1, &question);
			break;
		case MSG_STATUS:
			message_get_status(body, size - 1, &status);
			break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	shim_run(read_message, data, size);
	return 0;
}
