// Corpus rows as token ids and labels. Only what can be known is trained on: the results of drills and the assistant's
// turns, not the numbers that a question happens to have.
import { IGNORE_INDEX, tokenizeRow } from "../../dist/data/index.js";

export function tokenizeCorpusRow(row, tokenizer) {
  if (row.messages) return tokenizeRow({ row, where: "corpus" }, tokenizer, { assistantOnlyLoss: true });
  const ids = [];
  const labels = [];
  row.pieces.forEach((piece, i) => {
    const tokens = tokenizer.encode(piece);
    ids.push(...tokens);
    labels.push(...(i % 2 === 1 ? tokens : tokens.map(() => IGNORE_INDEX)));
  });
  ids.push(tokenizer.eosTokenId);
  labels.push(tokenizer.eosTokenId);
  return { inputIds: Int32Array.from(ids), labels: Int32Array.from(labels) };
}
