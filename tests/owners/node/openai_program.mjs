// OpenAI's own client of Node against a server: `node openai_program.mjs TASK URL MODEL`.
// Prints what the task found as JSON; tests/owners/test_openai_node.py says what it must be.
import OpenAI, { toFile } from "openai";

const [task, baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Oslo?" }];
// An enumeration, so that a model that rambles comes to an end.
const schema = {
  type: "object",
  properties: { city: { type: "string", enum: ["Oslo", "Bergen"] } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { type: "function", function: { name: "weather", parameters: schema } };

const tasks = {
  async chat() {
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 8 });
    const listed = [];
    for await (const each of client.models.list()) listed.push(each.id);
    const { choices, usage } = answer;
    return { text: choices[0].message.content, reason: choices[0].finish_reason, usage, listed };
  },

  async stream() {
    const stream = client.chat.completions.stream({
      model,
      messages,
      max_tokens: 8,
      stream_options: { include_usage: true },
    });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const whole = await stream.finalChatCompletion();
    return { text, whole: whole.choices[0].message.content, usage: whole.usage };
  },

  async tools() {
    const asked = { model, tools: [weather], tool_choice: "required", parallel_tool_calls: false };
    const first = await client.chat.completions.create({ ...asked, messages, max_tokens: 200 });
    const said = first.choices[0].message;
    const call = said.tool_calls[0];
    const result = { role: "tool", tool_call_id: call.id, content: "It rains." };
    const history = [...messages, said, result];
    const last = await client.chat.completions.create({
      model,
      messages: history,
      tools: [weather],
      tool_choice: "none",
      max_tokens: 8,
    });
    const given = JSON.parse(call.function.arguments);
    const calls = said.tool_calls.length;
    return { calls, name: call.function.name, given, id: call.id, text: last.choices[0].message.content };
  },

  async parsed() {
    const response_format = { type: "json_schema", json_schema: { name: "place", schema, strict: true } };
    const answer = await client.chat.completions.parse({ model, messages, response_format, max_tokens: 200 });
    return JSON.parse(answer.choices[0].message.content);
  },

  async responses() {
    const first = await client.responses.create({ model, input: "hi", max_output_tokens: 16 });
    const stream = client.responses.stream({
      model,
      input: "again",
      previous_response_id: first.id,
      max_output_tokens: 16,
    });
    const events = [];
    stream.on("event", (event) => events.push(event.type));
    const last = await stream.finalResponse();
    const kept = await client.responses.retrieve(last.id);
    await client.responses.delete(last.id);
    const gone = await client.responses.retrieve(last.id).catch((error) => error.constructor.name);
    return { first: first.output_text, last: last.output_text, kept: kept.output_text, gone, events };
  },

  async errors() {
    const found = {};
    const failing = {
      model: { model: "nobody", messages },
      field: { model, messages, temperature: 7 },
      stream: { model: `${model}:nobody`, messages, stream: true },
    };
    for (const [name, body] of Object.entries(failing)) {
      const error = await client.chat.completions.create(body).then(() => null, (error) => error);
      const { status, code, param } = error;
      found[name] = { kind: error.constructor.name, status, code, param };
    }
    return found;
  },

  async tuning() {
    const { files, fineTuning } = client;
    const upload = async (lines) => {
      const rows = lines.map(([prompt, completion]) => JSON.stringify({ prompt, completion }) + "\n");
      const blob = await toFile(Buffer.from(rows.join("")), "rows.jsonl");
      const expires_after = { anchor: "created_at", seconds: 3600 };
      const file = await files.create({ file: blob, purpose: "fine-tune", expires_after });
      return files.waitForProcessing(file.id, { pollInterval: 10 });
    };
    const learn = async (asked, lines) => {
      const file = await upload(lines);
      const hyperparameters = { n_epochs: 2, batch_size: 1 };
      const method = { type: "supervised", supervised: { hyperparameters } };
      let job = await fineTuning.jobs.create({ ...asked, training_file: file.id, method });
      const followed = [];
      while (job.finished_at === null) job = await fineTuning.jobs.retrieve(job.id);
      for await (const event of fineTuning.jobs.listEvents(job.id, { limit: 5 })) {
        followed.unshift(event.message);
      }
      const said = await client.chat.completions.create({
        model: job.fine_tuned_model,
        messages,
        max_tokens: 4,
      });
      return { file, job, followed, model: said.model };
    };
    const first = await learn({ model, suffix: "noded" }, [["hi", "ho"], ["hey", "hu"]]);
    const second = await learn({ model: first.job.fine_tuned_model }, [["hi", "ha"]]);
    const waiting = await fineTuning.jobs.create({
      model: `${model}:noded`,
      training_file: first.file.id,
      metadata: { from: "node" },
      hyperparameters: { n_epochs: 50 },
    });
    await fineTuning.jobs.pause(waiting.id);
    const cancelled = await fineTuning.jobs.cancel(waiting.id);
    const found = await fineTuning.jobs.list({ metadata: { from: "node" } });
    const checkpoints = [];
    for await (const each of fineTuning.jobs.checkpoints.list(first.job.id, { limit: 1 })) {
      checkpoints.push([each.step_number, each.fine_tuned_model_checkpoint]);
    }
    const results = await files.content(first.job.result_files[0]);
    const gone = await client.models.delete(first.job.fine_tuned_model);
    return {
      first,
      second,
      cancelled: [waiting.id, cancelled.id],
      found: found.data.map(({ id }) => id),
      checkpoints,
      results: await results.text(),
      gone,
    };
  },

  async embeddings() {
    const answer = await client.embeddings.create({ model, input: ["a boat", "a sail"] });
    return answer.data.map(({ index, embedding }) => ({ index, width: embedding.length }));
  },
};

console.log(JSON.stringify(await tasks[task]()));
