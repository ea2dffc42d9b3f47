//! What an interpreter runs, by its command line.
//!
//! The agent tells arguments joined by spaces, so the words of one with a space in it are taken for
//! arguments of their own. What is found is one word, for a person to read.

/// A program that runs others, and those of its options that matter here. Letters are read as
/// getopt(3) reads them: several behind one dash, the value of the last joined to it or not.
#[derive(Clone, Copy)]
struct Interpreter {
    /// File name without a version.
    name: &'static str,
    /// Letters that take a value.
    values: &'static str,
    /// Letters after which the text of a program stands, or after which it is read from a pipe.
    texts: &'static str,
    /// The letter that takes the name of a module.
    module: Option<char>,
    /// Options of more than a letter whose value is the next word.
    long_values: &'static [&'static str],
    /// Words that stand for `texts`.
    long_texts: &'static [&'static str],
    /// Words before the script that are none.
    commands: &'static [&'static str],
}

const fn named(name: &'static str, values: &'static str, texts: &'static str) -> Interpreter {
    Interpreter {
        name,
        values,
        texts,
        module: None,
        long_values: &[],
        long_texts: &[],
        commands: &[],
    }
}

const fn python(name: &'static str) -> Interpreter {
    Interpreter {
        module: Some('m'),
        long_values: &["--check-hash-based-pycs"],
        ..named(name, "WXQ", "c")
    }
}

const fn shell(name: &'static str) -> Interpreter {
    Interpreter { long_values: &["--rcfile", "--init-file", "+o", "+O"], ..named(name, "oO", "cs") }
}

const fn javascript(name: &'static str) -> Interpreter {
    Interpreter {
        long_values: &[
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "--conditions",
            "--env-file",
            "--input-type",
            "--title",
            "--config",
            "--import-map",
            "--preload",
            "--cwd",
        ],
        long_texts: &["--eval", "--print", "eval", "repl"],
        commands: &["run", "serve"],
        ..named(name, "rC", "ep")
    }
}

const INTERPRETERS: [Interpreter; 20] = [
    python("python"),
    python("pypy"),
    shell("sh"),
    shell("bash"),
    shell("dash"),
    shell("zsh"),
    shell("ksh"),
    // One of its programs is a shell; of the others the first word tells.
    shell("busybox"),
    javascript("node"),
    javascript("nodejs"),
    javascript("deno"),
    javascript("bun"),
    Interpreter {
        long_values: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--upgrade-module-path",
            "--add-modules",
            "--add-exports",
            "--add-opens",
            "--add-reads",
            "--patch-module",
            "--source",
        ],
        ..named("java", "", "")
    },
    named("ruby", "ICErKTWx", "e"),
    named("perl", "IMmiFx0", "eE"),
    Interpreter {
        long_values: &["--runtimeconfig", "--depsfile", "--additionalprobingpath", "--fx-version"],
        commands: &["exec"],
        ..named("dotnet", "", "")
    },
    named("php", "dcz", "rsS"),
    named("lua", "l", "e"),
    named("luajit", "ljO", "e"),
    named("electron", "r", ""),
];

fn interpreter(path: &str) -> Option<&'static Interpreter> {
    let last = path.rsplit('/').next().unwrap_or(path);
    let plain = last.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.iter().find(|interpreter| interpreter.name == plain)
}

/// Whether the program at this path, or of this name, runs others.
pub(super) fn is_interpreter(path: &str) -> bool {
    interpreter(path).is_some()
}

/// What the interpreter at the path `exe` was told to run, as it stands in the command line: a file,
/// a class, or a module with its option (`-m NAME`). Nothing where the program's text was given to
/// it, or where the words do not tell.
pub(super) fn run(exe: &str, cmdline: &str) -> Option<String> {
    let interpreter = interpreter(exe)?;
    let mut words = arguments(exe, cmdline)?.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word == "-" || interpreter.long_texts.contains(&word) {
            return None;
        } else if interpreter.long_values.contains(&word) {
            words.next();
        } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.starts_with('-')) {
            match interpreter.letters(letters) {
                Letters::Flags => {}
                Letters::WithValue => {
                    words.next();
                }
                Letters::Text => return None,
                Letters::Module("") => {
                    return words.next().filter(fits).map(|name| format!("{word} {name}"));
                }
                Letters::Module(_) => return Some(word).filter(fits).map(str::to_owned),
            }
        } else if !word.starts_with(['-', '+', '@']) && !interpreter.commands.contains(&word) {
            return Some(word).filter(fits).map(str::to_owned);
        }
    }
    None
}

/// What letters behind a dash say.
enum Letters<'a> {
    Flags,
    /// The next word is a value.
    WithValue,
    Text,
    /// A module's name; empty where it is the next word.
    Module(&'a str),
}

impl Interpreter {
    fn letters<'a>(&self, letters: &'a str) -> Letters<'a> {
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            if self.texts.contains(letter) {
                return Letters::Text;
            }
            if self.module == Some(letter) {
                return Letters::Module(rest.as_str());
            }
            if self.values.contains(letter) {
                return if rest.as_str().is_empty() { Letters::WithValue } else { Letters::Flags };
            }
        }
        Letters::Flags
    }
}

/// What follows the interpreter's own name, which may have spaces in it.
fn arguments<'a>(exe: &str, cmdline: &'a str) -> Option<&'a str> {
    if let Some(rest) = cmdline.strip_prefix(exe).and_then(|rest| rest.strip_prefix(' ')) {
        return Some(rest);
    }
    // By a link's name, in a folder of any name.
    let mut end = 0;
    for word in cmdline.split(' ') {
        end += word.len() + 1;
        if is_interpreter(word) {
            return cmdline.get(end..);
        }
    }
    None
}

/// Whether a pattern made of the word has room to spare.
fn fits(word: &&str) -> bool {
    word.len() < 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_tells_programs_apart_is_found() {
        for (exe, cmdline, expected) in [
            ("/usr/bin/python3.11", "python3 app.py --port 1", "app.py"),
            ("/usr/bin/python3.11", "python3 -W ignore -X dev -u app.py", "app.py"),
            ("/usr/bin/python3.11", "python3 -Wignore app.py -c x", "app.py"),
            ("/usr/bin/python3.11", "/home/a b/venv/bin/python /opt/x/serve a", "/opt/x/serve"),
            ("/opt/my py/bin/python3.11", "/opt/my py/bin/python3.11 a.py", "a.py"),
            ("/usr/bin/python3.11", "python3 -m vosk_server x", "-m vosk_server"),
            ("/usr/bin/python3.11", "python3 -W ignore -um vosk_server", "-um vosk_server"),
            ("/usr/bin/python3.11", "python3 -mvosk_server", "-mvosk_server"),
            ("/usr/bin/bash", "/bin/bash -eu -o pipefail run.sh -c", "run.sh"),
            ("/usr/bin/dash", "sh ./run", "./run"),
            ("/usr/bin/node", "node --require ./hook.js -r x server.js", "server.js"),
            ("/usr/bin/deno", "deno run --allow-net main.ts", "main.ts"),
            ("/usr/lib/jvm/bin/java", "java -Xmx1g -cp a.jar:b.jar org.x.Main", "org.x.Main"),
            ("/usr/lib/jvm/bin/java", "java -Dname=echo -jar app.jar", "app.jar"),
            ("/usr/bin/perl", "perl -Mfeature=say -I lib -w a.pl", "a.pl"),
            ("/usr/bin/ruby3.1", "ruby -W0 -r json a.rb", "a.rb"),
            ("/usr/bin/dotnet", "dotnet exec --depsfile a.json app.dll", "app.dll"),
        ] {
            assert_eq!(run(exe, cmdline).as_deref(), Some(expected), "{cmdline}");
        }
    }

    #[test]
    fn where_the_text_was_given_or_nothing_tells_no_word_is_guessed() {
        for (exe, cmdline) in [
            ("/usr/bin/python3.11", "python3 -c import time; time.sleep(1)"),
            ("/usr/bin/python3.11", "python3 -uc import time"),
            ("/usr/bin/python3.11", "python3 -W ignore -c import time"),
            ("/usr/bin/python3.11", "python3 - a"),
            ("/usr/bin/python3.11", "python3"),
            ("/usr/bin/python3.11", "VLLM::EngineCore_0"),
            ("/usr/bin/python3.11", ""),
            ("/usr/bin/bash", "bash -lc sleep 1"),
            ("/usr/bin/bash", "-bash"),
            ("/usr/bin/node", "node -e require('x')"),
            ("/usr/bin/node", "node --eval x"),
            ("/usr/bin/perl", "perl -ne print"),
            ("/usr/lib/jvm/bin/java", "java -Xmx1g"),
            ("/usr/bin/whisper", "whisper a.wav"),
        ] {
            assert_eq!(run(exe, cmdline), None, "{cmdline}");
        }
    }
}
