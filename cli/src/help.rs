//! What `tern --help` looks like: the commands in groups, in the order in which a newcomer needs them.

use clap::Command;
use clap::builder::StyledStr;

/// A command that stands in no group is listed at the end.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Start here", &["quickstart"]),
    ("Make a model", &["data", "config", "train", "sweep", "report", "plot", "export"]),
    ("Use a model", &["verify", "generate", "chat", "bench", "import", "inspect"]),
    ("This program", &["devices", "completions", "man", "help"]),
];

/// Lists the subcommands by group, and sets the headings of every page alike.
pub(crate) fn arrange(command: Command) -> Command {
    let mut command = dress(command);
    // The subcommand `help` exists once the command is built.
    let mut built = command.clone();
    built.build();
    let template = template(&built);
    command = command.help_template(template);
    command
}

fn template(command: &Command) -> StyledStr {
    let header = command.get_styles().get_header();
    let literal = command.get_styles().get_literal();
    let all: Vec<(&str, String)> = command
        .get_subcommands()
        .map(|c| (c.get_name(), c.get_about().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    let mut list = |heading: &str, commands: &[&(&str, String)]| {
        if !commands.is_empty() {
            text.push_str(&format!("\n{header}{heading}:{header:#}\n"));
        }
        for (name, about) in commands {
            text.push_str(&format!("  {literal}{name:width$}{literal:#}  {about}\n"));
        }
    };
    for (heading, names) in GROUPS {
        let find = |name: &&str| all.iter().find(|(other, _)| other == name);
        list(heading, &names.iter().filter_map(find).collect::<Vec<_>>());
    }
    let grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    list("Further commands", &all.iter().filter(|(name, _)| !grouped(name)).collect::<Vec<_>>());
    text.push_str(&format!("\n{header}Options:{header:#}\n{{options}}{{after-help}}"));
    text.into()
}

/// Sets the heading of the examples as clap sets its own, on every page.
fn dress(mut command: Command) -> Command {
    let header = *command.get_styles().get_header();
    if let Some(text) = command.get_after_help().map(ToString::to_string)
        && let Some((heading, rest)) = text.split_once(":\n")
    {
        command = command.after_help(format!("{header}{heading}:{header:#}\n{rest}"));
    }
    command.mut_subcommands(dress)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::CommandFactory;

    use crate::Arguments;

    #[test]
    fn every_command_is_listed_once() {
        let mut command = super::arrange(Arguments::command());
        let help = command.render_long_help().to_string();
        command.build();
        for subcommand in command.get_subcommands() {
            let start = format!("  {} ", subcommand.get_name());
            let lines = help.lines().filter(|line| line.starts_with(&start)).count();
            assert_eq!(lines, 1, "{start}: {help}");
        }
        assert!(!help.contains("Further commands"), "{help}");
    }

    /// A page as wide as this is read on any terminal; an example is copied, so it is not wrapped.
    #[test]
    fn every_page_has_an_example_and_stays_within_100_columns() {
        fn check(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name()).trim().to_owned();
            let help = command.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{path}: {line}");
            }
            if path != "tern" && !path.contains("help") {
                assert!(help.contains("Examples:\n  tern "), "{path}: {help}");
            }
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{path}: {} is unexplained",
                    argument.get_id()
                );
            }
            for inner in command.get_subcommands_mut() {
                check(inner, &path);
            }
        }
        let mut command = super::arrange(Arguments::command());
        command.build();
        check(&mut command, "");
    }
}
