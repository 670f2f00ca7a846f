"""What components import beside WASI 0.2: settings and logging."""

from harness import INPUTS, Case, main
from reload_test import Configured


class Told(Configured):
    component = INPUTS / "told.wasm"


class ImportsTest(Case):
    def test_settings_are_the_environment_and_log_lines_have_level_and_context(self):
        with Told('bind = ["127.0.0.1:0"]\nenv = { GREETING = "well met" }',
                  env={"RUST_LOG": "info"}) as server:
            answer = server.get("/")
            self.assertEqual((answer.status, answer.text()), (200, "well met"))
            first = server.wait_log("Guest output", context="parts")
            self.assertEqual((first["level"].lower(), first["stream"], first["text"]), ("warn", "log", "first\nsecond"))
            second = server.wait_log("Guest output", text="first")
            self.assertEqual((second["level"].lower(), second["stream"]), ("error", "log"))
            self.assertNotIn("context", second)
            for line in (first, second):
                self.assertEqual((line["module"], line["request_id"]), ("told", answer.one("x-request-id")))

    def test_levels_of_guests_are_filtered_as_ours_are(self):
        with Told('bind = ["127.0.0.1:0"]\nenv = { GREETING = "g" }',
                  env={"RUST_LOG": "info,mik_guest=error"}) as server:
            self.assertEqual(server.get("/").status, 200)
            server.wait_log("Guest output", text="first")
            self.assertEqual(server.find_log("Guest output", context="parts"), [])

    def test_a_setting_that_is_not_there_is_none(self):
        with Told() as server:
            self.assertEqual(server.get("/").status, 502)
            server.wait_log("Guest output", context="parts")


if __name__ == "__main__":
    main()
