// Reads an AsyncAPI document from standard input with the parser of AsyncAPI's makers, Avro schemas included, and prints what it found as JSON: its
// diagnostics (severity 0 is an error), and of a valid document its channels, operations, and how many messages there are.
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';
import { AvroSchemaParser } from '@asyncapi/avro-schema-parser';

const parser = new Parser();
parser.registerSchemaParser(AvroSchemaParser());
const { document, diagnostics } = await parser.parse(readFileSync(0, 'utf8'));
const found = { diagnostics: diagnostics.map(({ severity, code, message, path }) => ({ severity, code, message, path: path.join('/') })) };
if (document) {
  found.channels = document.channels().all().map((c) => c.address());
  found.operations = document.operations().all().map((o) => ({ id: o.id(), action: o.action(), reply: o.reply()?.channel()?.address() ?? '' }));
  found.messages = document.channels().all().reduce((n, c) => n + c.messages().all().length, 0);
  found.keys = document.channels().all().map((c) => c.messages().all()[0].bindings().get('kafka')?.value().key.type);
}
console.log(JSON.stringify(found));
